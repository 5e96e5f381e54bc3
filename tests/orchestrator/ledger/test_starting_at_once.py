"""Several callers who submit one run id at the same time: one makes the run, of its own pipeline
alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from redis.exceptions import ResponseError

from orchestrator.attempt_id import AttemptId
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.staging import staged_steps
from orchestrator.ledger.states import Outcome
from orchestrator.ledger.values import Chain, Commit, RunExists, StagedStep
from orchestrator.record.verification import verify_run
from tests.support.runs import (
    SETTINGS,
    Graph,
    all_ready,
    begin,
    events_of,
    graph,
    heads,
    links_of,
    random_graph,
    run_state,
    start,
)

NewLedger = Callable[[], Ledger]
Call = tuple[Any, ...]
PARTS = ("graph", "children", "inputs", "spec")


class Recorded(Ledger):
    """A ledger that notes the operations of its caller instead of doing them."""

    def __init__(self, of: Ledger) -> None:
        super().__init__(of.client, of.prefix, of._page)
        self.calls: list[Call] = []

    def _call(self, run_id: str, *args: Any) -> Any:
        self.calls.append(args)
        return [0]


def calls_of_a_submit(ledger: Ledger, graph: Graph, number: int) -> list[Call]:
    recorded = Recorded(ledger)
    start(
        recorded,
        graph.plan(),
        run_id="r",
        fields={"pipeline": f"p{number}", "params": f'{{"n":{number}}}'},
    )
    return recorded.calls


def interleaved(rng: Random, submits: list[list[Call]]) -> Iterator[tuple[int, Call]]:
    """Each submit's calls in their order, mixed with those of the others. Some are said twice; some
    submits die."""
    left = {number: calls[: rng.randint(1, len(calls)) if rng.random() < 0.2 else None]
            for number, calls in enumerate(submits)}  # fmt: skip
    while left:
        number = rng.choice(list(left))
        call = left[number].pop(0)
        if not left[number]:
            del left[number]
        yield from [(number, call)] * rng.choice([1, 1, 2])


@given(seed=st.integers(0, 2**32))
# a root that is skipped at once, and a step that this makes ready before another root
@example(seed=1_921_526_137)
@settings(max_examples=150)
def test_in_any_order_of_their_calls_the_first_to_start_makes_the_run(
    new_ledger: NewLedger, seed: int
) -> None:
    rng, any_ledger = Random(seed), new_ledger()
    graphs = [random_graph(rng, 9, other_rules=0.3) for _ in range(rng.randint(2, 4))]
    ledger = Ledger(any_ledger.client, any_ledger.prefix, page=rng.randint(1, 4))
    submits = [calls_of_a_submit(ledger, each, number) for number, each in enumerate(graphs)]
    winner: int | None = None
    answer: Any = None

    for number, call in interleaved(rng, submits):
        is_start = call[0] == "start"
        if is_start and winner not in (None, number):
            with pytest.raises(ResponseError, match="EXISTS"):
                ledger._call("r", *call)
        elif is_start:
            given_before, answer = answer, ledger._call("r", *call)
            assert given_before in (None, answer)
            winner = number
        else:
            ledger._call("r", *call)

    left = set(ledger.client.scan_iter(f"{ledger.prefix}:{{r}}:*~*"))
    assert all(0 < ledger.client.ttl(key) <= 3600 for key in left)
    if winner is not None:
        assert_is_run_of(ledger, graphs[winner], winner)


def assert_is_run_of(ledger: Ledger, graph: Graph, number: int) -> None:
    """The record holds this pipeline and nothing of another, and nothing of it goes by itself."""
    fields = ledger.run_fields("r")
    assert (fields["pipeline"], json.loads(fields["params"])) == (f"p{number}", {"n": number})
    assert ledger.staged("r") == {step.step: step for step in staged_steps(graph.plan(), SETTINGS)}
    assert [event for event, _, _ in events_of(ledger, "r")].count("run.created") == 1
    assert {ledger.client.ttl(ledger.key("r", part)) for part in PARTS} <= {-1, -2}
    assert verify_run(ledger, "r").violations == ()


CHAIN_OF_2500 = {f"s{i}": f"s{i - 1}" if i else "" for i in range(2500)}


def test_of_eight_threads_one_makes_the_run_and_the_others_learn_that_it_exists(
    ledger: Ledger, at_once
) -> None:
    graphs = [graph({f"{name}-{number}": "" for name in CHAIN_OF_2500}) for number in range(8)]
    plans = [each.plan() for each in graphs]

    def submit(own: Ledger, number: int) -> list[str] | str:
        fields = {"pipeline": f"p{number}", "params": f'{{"n":{number}}}'}
        try:
            ready = start(own, plans[number], run_id="r", fields=fields)[1]
            return heads(all_ready(own, "r", ready))
        except RunExists as error:
            return str(error)

    answers = at_once(submit)

    (winner,) = [number for number, answer in enumerate(answers) if isinstance(answer, list)]
    assert answers[winner] == list(graphs[winner].upstream)
    told = {answer for answer in answers if isinstance(answer, str)}
    assert told == {
        "run r is already started; submit under another id, or under none to get a new one"
    }
    assert_is_run_of(ledger, graphs[winner], winner)
    assert list(ledger.client.scan_iter(f"{ledger.prefix}:{{r}}:*~*")) == []
    assert ledger.recent_runs(10) == ledger.active_runs() == ["r"]


PROCESS = """
import sys
sys.path[:0] = {paths!r}
from tests.support.runs import graph, start
from orchestrator.ledger.connection import connect
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.values import RunExists

number = int(sys.argv[1])
ledger = Ledger(connect({url!r}), {prefix!r})
plan = graph({{f"s{{i}}-{{number}}": "" for i in range(2500)}}).plan()
print("ready", flush=True)
sys.stdin.readline()
try:
    start(ledger, plan, run_id="r", fields={{"pipeline": f"p{{number}}", "params": '{{"n":%d}}' % number}})
except RunExists:
    sys.exit(3)
"""


def test_of_several_processes_one_makes_the_run(ledger: Ledger, shared_redis_url: str) -> None:
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[3])]
    text = PROCESS.format(paths=paths, url=shared_redis_url, prefix=ledger.prefix)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", text, str(number)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for number in range(3)
    ]
    try:
        for process in processes:
            assert process.stdout
            assert process.stdout.readline() == b"ready\n"
        for process in processes:
            assert process.stdin
            process.stdin.write(b"go\n")
            process.stdin.flush()
        codes = [process.wait(60) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()

    assert sorted(codes) == [0, 3, 3]
    winner = codes.index(0)
    assert_is_run_of(ledger, graph({f"s{i}-{winner}": "" for i in range(2500)}), winner)


def test_a_submit_that_dies_and_one_that_lives_do_not_mix(ledger: Ledger) -> None:
    """The one that dies has staged its first part before, or while, the other stages its own."""
    other = list(staged_steps(graph({f"old{i}": "" for i in range(1500)}).plan(), SETTINGS))

    def dying() -> Iterator[StagedStep]:
        yield from other
        start(
            ledger,
            graph({"a": "", "b": "a"}).plan(),
            run_id="r",
            fields={"pipeline": "p1", "params": '{"n":1}'},
        )
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ledger.start(
            "r",
            dying(),
            [],
            {"pipeline": "dead", "params": "{}", "import_path": "", "max_links": 20},
        )

    assert_is_run_of(ledger, graph({"a": "", "b": "a"}), 1)


def test_a_start_that_is_asked_for_again_much_later_still_gets_what_is_queued(
    ledger: Ledger,
) -> None:
    recorded = calls_of_a_submit(ledger, graph({"a": "", "b": "", "c": "a"}), 0)
    for call in recorded:
        first = ledger._call("r", *call)
    answer = ledger.commit(AttemptId("r", "a", 1), begin(ledger, "r", "a"), "w", Outcome.SUCCEEDED)
    assert isinstance(answer, Commit)

    assert [links_of(text) for text in first[1:]] == [[("a", 1), ("c", 1)], [("b", 1)]]
    assert [links_of(text) for text in ledger._call("r", *recorded[-1])[1:]] == [[("b", 1)]]


def test_of_many_who_cancel_each_gets_its_own_answer_again(ledger: Ledger) -> None:
    """Answers are lost on the way while others cancel too: nobody learns what another one has
    cancelled."""
    names = [f"s{i}" for i in range(12)]
    run_id, _ = start(
        ledger, graph(dict.fromkeys(names, "") | {"below": "s0"}, {"below": "one_failed"}).plan()
    )
    asked = [
        ("cancel_steps", "why", f"id{place}", *pair)
        for place, pair in enumerate(pairwise(names))
        if not place % 2
    ]
    asked.append(("cancel", "all of it", "last"))

    first = [ledger._call(run_id, *call) for call in asked]

    assert [answer[0] for answer in first] == [2] * 6 + [1]
    assert run_state(ledger, run_id) == "cancelled"
    assert [ledger._call(run_id, *call)[0] for call in asked] == [2] * 6 + [1]
    assert ledger.cancel(run_id, "once more") is None


def test_chains_that_a_cancel_made_ready_are_given_again_after_another_cancel(
    ledger: Ledger,
) -> None:
    run_id, _ = start(ledger, graph({"a": "", "b": "", "tidy": "a"}, {"tidy": "one_failed"}).plan())
    first = ledger._call(run_id, "cancel_steps", "why", "one", "a")
    ledger._call(run_id, "cancel_steps", "why", "two", "b")

    assert first == ledger._call(run_id, "cancel_steps", "why", "one", "a")
    chains: list[Chain] = [tuple(links_of(text)) for text in first[1][1:]]  # type: ignore[misc]
    assert chains == [(("tidy", 1),)]
