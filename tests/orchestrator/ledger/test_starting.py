"""A run begins at once and whole, once, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator.attempt_id import AttemptId
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.staging import staged_steps
from orchestrator.ledger.states import Outcome
from orchestrator.ledger.values import Chain, Commit, RunExists, RunUnknown, StagedStep
from tests.support.runs import (
    SETTINGS,
    SaidTwice,
    begin,
    events_of,
    graph,
    heads,
    run_state,
    start,
    start_graph,
    states_of,
)

GRAPH_KEYS = ("graph", "children", "inputs", "spec")
FIELDS = {"pipeline": "p", "params": "{}", "import_path": "", "max_links": 20}
FORK = graph({"a": "", "b": "", "c": "a b", "d": "c"}).plan()


def test_the_roots_are_queued_in_the_order_of_the_listing(ledger: Ledger) -> None:
    run_id, chains = start(ledger, graph({"z": "", "m": "z", "a": "", "k": "m"}).plan())

    assert [[(link.step, link.attempt) for link in chain.links] for chain in chains] == [
        [("z", 1), ("m", 1), ("k", 1)],
        [("a", 1)],
    ]
    assert states_of(ledger, run_id) == {
        "z": "queued",
        "m": "waiting",
        "a": "queued",
        "k": "waiting",
    }
    assert run_state(ledger, run_id) == "queued"


def test_a_run_id_cannot_be_started_twice(ledger: Ledger) -> None:
    run_id, _ = start(ledger, FORK)
    before = ledger.run_fields(run_id), ledger.entries(run_id), events_of(ledger, run_id)

    with pytest.raises(RunExists):
        start(ledger, graph({"other": ""}).plan(), run_id=run_id)

    assert (ledger.run_fields(run_id), ledger.entries(run_id), events_of(ledger, run_id)) == before
    assert all(ledger.client.ttl(ledger.key(run_id, part)) < 0 for part in GRAPH_KEYS)


def test_a_start_whose_answer_is_lost_gives_the_same_chains_again(ledger: Ledger) -> None:
    plan = graph(
        {"a": "", "tidy": "a", "odd": "", "after": "odd"},
        {"odd": "one_failed", "after": "all_done"},
    ).plan()
    twice = SaidTwice(ledger.client, ledger.prefix)

    run_id, chains = start(twice, plan)

    assert heads(chains) == ["a", "after"]
    assert sorted(
        step for event, step, _ in events_of(ledger, run_id) if event == "step.queued"
    ) == ["a", "after"]


def test_every_call_of_a_run_may_be_said_twice(ledger: Ledger) -> None:
    twice = SaidTwice(ledger.client, ledger.prefix)
    run_id, chains = start(twice, FORK)

    done = []
    ready: list[Chain] = list(chains)
    while ready:
        step = ready.pop(0).links[0].step
        answer = twice.commit(
            AttemptId(run_id, step, 1), begin(twice, run_id, step), "w", Outcome.SUCCEEDED
        )
        assert isinstance(answer, Commit)
        ready += answer.ready
        done.append(step)

    assert done == ["a", "b", "c", "d"]
    assert run_state(ledger, run_id) == "succeeded"
    assert len(events_of(ledger, run_id)) == 3 + 3 * 4


def test_a_submit_that_dies_leaves_nothing_for_ever(ledger: Ledger) -> None:
    steps = list(
        staged_steps(
            graph({f"s{i}": f"s{i - 1}" if i else "" for i in range(2500)}).plan(), SETTINGS
        )
    )

    def dying() -> Iterator[StagedStep]:
        yield from steps[:2000]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ledger.start("r", dying(), ["s0"], FIELDS)

    left = list(ledger.client.scan_iter(f"{ledger.prefix}:*", count=1000))
    assert left
    assert all(0 < ledger.client.ttl(key) <= 3600 for key in left)
    with pytest.raises(RunUnknown):
        ledger.run_fields("r")


def test_what_a_dead_submit_left_does_not_get_into_the_next_one(ledger: Ledger) -> None:
    def dying() -> Iterator[StagedStep]:
        yield from list(staged_steps(graph({f"old{i}": "" for i in range(1000)}).plan(), SETTINGS))
        raise KeyboardInterrupt

    for upstream in ({"a": "", "b": "a"}, {}):
        run_id = f"r{len(upstream)}"
        with pytest.raises(KeyboardInterrupt):
            ledger.start(run_id, dying(), [], FIELDS)

        start(ledger, graph(upstream).plan(), run_id=run_id)

        assert list(ledger.entries(run_id)) == list(upstream)
        assert ledger.cancel(run_id, "") == (len(upstream) or None)


def test_a_submit_that_comes_second_leaves_the_run_of_the_first_alone(ledger: Ledger) -> None:
    def overtaken() -> Iterator[StagedStep]:
        yield from staged_steps(graph({f"other{i}": "" for i in range(1000)}).plan(), SETTINGS)
        start(ledger, FORK, run_id="r")
        yield from staged_steps(graph({"late": ""}).plan(), SETTINGS)

    with pytest.raises(RunExists):
        ledger.start("r", overtaken(), [], FIELDS)

    assert list(ledger.entries("r")) == ["a", "b", "c", "d"]
    assert all(ledger.client.ttl(ledger.key("r", part)) < 0 for part in GRAPH_KEYS)


def test_nothing_staged_expires_once_the_run_has_started(ledger: Ledger) -> None:
    run_id, _ = start(ledger, FORK)

    ttls = {key: ledger.client.ttl(key) for key in ledger.client.scan_iter(f"{ledger.prefix}:*")}

    assert set(ttls.values()) == {-1}, f"{run_id}: {ttls}"


def test_a_run_without_steps_succeeds_at_once(ledger: Ledger) -> None:
    run_id, chains = start(ledger, graph({}).plan())

    assert chains == ()
    assert run_state(ledger, run_id) == "succeeded"
    assert events_of(ledger, run_id) == [("run.created", "", 0), ("run.succeeded", "", 0)]
    assert ledger.run_fields(run_id)["ended_at"] == ledger.run_fields(run_id)["created_at"]
    assert ledger.cancel(run_id, "late") is None


def test_a_root_that_waits_for_a_failure_is_skipped_with_what_needs_it(ledger: Ledger) -> None:
    run_id, chains = start(
        ledger,
        graph(
            {"alarm": "", "page": "alarm", "report": "alarm"},
            {"alarm": "one_failed", "report": "none_failed"},
        ).plan(),
    )

    assert heads(chains) == ["report"]
    assert states_of(ledger, run_id) == {"alarm": "skipped", "page": "skipped", "report": "queued"}


def test_a_run_whose_every_step_is_skipped_succeeds(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"alarm": "", "page": "alarm"}, {"alarm": "one_failed"})

    assert run_state(ledger, run_id) == "succeeded"


def test_runs_are_listed_newest_first_and_are_active_until_forgotten(ledger: Ledger) -> None:
    first, second = (start(ledger, FORK)[0] for _ in range(2))

    assert ledger.recent_runs(10) == [second, first]
    assert ledger.recent_runs(1) == [second]
    assert ledger.active_runs() == sorted([first, second])
    ledger.cancel(first, "")
    ledger.unwatch_run(first)
    assert ledger.active_runs() == [second]
    assert ledger.recent_runs(10) == [second, first]


def test_a_run_that_goes_on_is_not_forgotten(ledger: Ledger) -> None:
    run_id, _ = start(ledger, FORK)

    ledger.unwatch_run(run_id)

    assert ledger.active_runs() == [run_id]


@pytest.mark.parametrize("is_before", [True, False])
def test_a_coordinator_that_looks_while_a_run_starts_does_not_lose_it(
    ledger: Ledger, is_before: bool
) -> None:
    class LookedAt(Ledger):
        def _call(self, run_id: str, *args: Any) -> Any:
            if is_before and args[0] == "start":
                ledger.unwatch_run(run_id)
            answer = super()._call(run_id, *args)
            if not is_before:
                ledger.unwatch_run(run_id)
            return answer

    run_id, _ = start(LookedAt(ledger.client, ledger.prefix), FORK)

    assert ledger.active_runs() == [run_id]
