"""No call does more than a page of work, and what is left of it is written exactly, whoever goes on
with it and whatever comes in between."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.attempt_id import AttemptId
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.staging import staged_steps
from orchestrator.ledger.states import Outcome, RunState, StepState
from orchestrator.ledger.values import Refusal, Reused, RunNotEnded
from orchestrator.record.run import read_record
from orchestrator.record.verification import verify_run
from orchestrator.runs.one_step import read_around
from orchestrator.runs.reasons import explain
from orchestrator.runs.surroundings import look_around
from tests.support.paged_runs import PagedRun
from tests.support.runs import (
    SETTINGS,
    all_ready,
    begin,
    counts_in,
    graph,
    random_graph,
    run_state,
    start,
    states_of,
)

NewLedger = Callable[[], Ledger]


SMALL = ("hash-max-listpack-entries", "zset-max-listpack-entries")


@pytest.fixture(autouse=True)
def scanned_like_large_ones(redis_client: redis.Redis) -> Iterator[None]:
    """The server scans the keys of small runs page by page, as those of large ones."""
    before = {name: redis_client.config_get(name)[name] for name in SMALL}
    for name in SMALL:
        redis_client.config_set(name, 0)
    yield
    for name, value in before.items():
        redis_client.config_set(name, value)


class Counting(Ledger):
    """A ledger that notes how many commands of the server each call of the script took."""

    def __init__(self, of: Ledger, page: int) -> None:
        super().__init__(of.client, of.prefix, page)
        self.most: Counter[str] = Counter()

    def _call(self, run_id: str, *args: Any) -> Any:
        before = self._commands()
        try:
            return super()._call(run_id, *args)
        finally:
            self.most[args[0]] = max(self.most[args[0]], self._commands() - before)

    def _commands(self) -> int:
        stats = self.client.info("commandstats")
        return sum(it["calls"] for name, it in stats.items() if name != "cmdstat_info")


def live(ledger: Ledger, width: int) -> None:
    """Do everything to runs of a root, `width` steps below it, and one below all of these."""
    names = [f"s{i}" for i in range(width)]
    wide = graph({"root": "", **dict.fromkeys(names, "root"), "end": names}).plan()

    run_id, _ = start(ledger, wide)
    root = AttemptId(run_id, "root", 1)
    answer = ledger.commit(root, begin(ledger, run_id, "root"), "w", Outcome.SUCCEEDED)
    all_ready(ledger, run_id, answer.ready)
    for step in names[:3]:
        begin(ledger, run_id, step)
    ledger.advance_due(run_id)
    ledger.cancel_steps(run_id, names[3 : 3 + width // 4], "enough")
    ledger.cancel(run_id, "enough")
    for step in names[:3]:
        ledger.report_lost(AttemptId(run_id, step, 1), {}, owner="w")
    resets = [(step, 1) for step in names] + [("end", 0)]
    all_ready(ledger, run_id, ledger.resume(run_id, resets, detail={"code_changed": ["a"]}))
    ledger.cancel(run_id, "enough")

    run_id, _ = start(ledger, wide)
    root = AttemptId(run_id, "root", 1)
    answer = ledger.commit(root, begin(ledger, run_id, "root"), "w", Outcome.FAILED)
    all_ready(ledger, run_id, answer.ready)
    resets = [("root", 0), *((step, 0) for step in names), ("end", 0)]
    all_ready(ledger, run_id, ledger.resume(run_id, resets))
    ledger.cancel(run_id, "enough")

    roots = graph(dict.fromkeys(names, "") | {"end": names}).plan()
    run_id, ready = start(ledger, roots, reused={step: Reused("o", 1) for step in names[1:]})
    all_ready(ledger, run_id, ready)
    run_id, ready = start(ledger, roots, fields={"deadline_s": 1e-6, "limits": 1})
    all_ready(ledger, run_id, ready)
    all_ready(ledger, run_id, ledger.advance_due(run_id).ready)
    assert run_state(ledger, run_id) == "failed"


def test_what_a_call_takes_does_not_grow_with_the_run(ledger: Ledger) -> None:
    page = 20
    takes = []
    for width in (300, 1200):
        counting = Counting(ledger, page)
        live(counting, width)
        takes.append(counting.most)

    narrow, wide = takes
    assert narrow.keys() == wide.keys()
    # how much a scan returns at once varies by half
    more = {name: (narrow[name], wide[name]) for name in wide if wide[name] > 1.5 * narrow[name]}
    assert not more
    assert max(wide.values()) <= 15 * page


def test_lists_of_steps_are_kept_in_pages(ledger: Ledger) -> None:
    paged = Ledger(ledger.client, ledger.prefix, page=7)
    names = [f"s{i}" for i in range(50)]
    plan = graph({"root": "", **dict.fromkeys(names, "root"), "end": names}).plan()
    run_id, _ = start(paged, plan)

    lists = paged.client.hvals(paged.key(run_id, "children"))
    assert max(len(json.loads(text)) for text in lists) == 7
    staged = paged.staged(run_id)
    assert json.loads(staged["root"].children) == names
    assert staged == start_and_read(ledger, plan)


def start_and_read(ledger: Ledger, plan: Any) -> Any:
    return ledger.staged(start(ledger, plan)[0])


@pytest.fixture
def paged(ledger: Ledger) -> Ledger:
    return Ledger(ledger.client, ledger.prefix, page=3)


NAMES = [f"s{i}" for i in range(20)]
FAN = {"root": "", **dict.fromkeys(NAMES, "root"), "end": NAMES}


def begun_fan(ledger: Ledger, running: int = 0) -> str:
    """Return a run of the fan whose root has succeeded, and of which nobody goes on with the
    rest."""
    run_id, _ = start(ledger, graph(FAN).plan())
    root = AttemptId(run_id, "root", 1)
    answer = ledger.commit(root, begin(ledger, run_id, "root"), "w", Outcome.SUCCEEDED)
    assert answer.ready.has_more
    if running:
        all_ready(ledger, run_id, answer.ready)
    for step in NAMES[:running]:
        begin(ledger, run_id, step)
    return run_id


def cancel_page(ledger: Ledger, run_id: str, cancel_id: str) -> list[Any]:
    answer: list[Any] = ledger._call(run_id, "cancel", "why", cancel_id)
    return answer


def test_a_coordinator_goes_on_with_what_its_caller_has_left(paged: Ledger) -> None:
    run_id = begun_fan(paged)
    assert not paged.advance_due(run_id).ready.has_more, "its caller may still be at it"

    paged.client.hincrby(paged.key(run_id, "run"), "front_at", -1_500_000)
    report = paged.advance_due(run_id)
    assert report.ready.has_more
    all_ready(paged, run_id, report.ready)

    assert counts_in(paged.run_fields(run_id)) == {"succeeded": 1, "queued": 20, "waiting": 1}
    assert verify_run(paged, run_id).violations == ()


def test_an_answer_that_is_lost_is_given_again(paged: Ledger) -> None:
    run_id = begun_fan(paged)

    first = paged._call(run_id, "go_on", "one")
    assert len(first[0]) > 1
    assert paged._call(run_id, "go_on", "one") == first


def test_nothing_begins_from_the_first_page_of_a_cancelling_on(paged: Ledger) -> None:
    run_id = begun_fan(paged, running=2)
    assert cancel_page(paged, run_id, "one")[1] == 1

    assert run_state(paged, run_id) == "cancelling"
    assert read_record(paged, run_id).state is RunState.CANCELLING
    for step, (state, attempt) in paged.states(run_id).items():
        if state is StepState.QUEUED:
            claim = paged.claim(AttemptId(run_id, step, attempt), "c", "w2")
            assert claim == Refusal("the run is being cancelled")
    with pytest.raises(RunNotEnded, match="cancelling"):
        paged.resume(run_id, [])
    assert paged.states(run_id)["s0"][0] is StepState.CANCELLED, "what runs is cancelled first"
    assert verify_run(paged, run_id).violations == ()


def test_who_cancels_second_joins_and_both_learn_how_many_steps_it_was(paged: Ledger) -> None:
    run_id = begun_fan(paged)
    answers = {"one": cancel_page(paged, run_id, "one"), "two": cancel_page(paged, run_id, "two")}
    assert [answer[1] for answer in answers.values()] == [1, 1]
    while any(answer[1] for answer in answers.values()):
        for cancel_id in answers:
            answers[cancel_id] = cancel_page(paged, run_id, cancel_id)

    assert {tuple(answer) for answer in answers.values()} == {(21, 0)}
    assert counts_in(paged.run_fields(run_id)) == {"succeeded": 1, "cancelled": 21}
    assert paged.cancel(run_id, "late") is None
    assert verify_run(paged, run_id).violations == ()


def test_a_success_that_the_cancelling_has_not_reached_counts_and_starts_nothing(
    paged: Ledger,
) -> None:
    run_id = begun_fan(paged, running=20)
    tokens = {step: paged.token(run_id, step) for step in NAMES}
    cancel_page(paged, run_id, "one")
    late = [step for step in NAMES if paged.states(run_id)[step][0] is StepState.RUNNING]
    assert late

    done = paged.commit(AttemptId(run_id, late[0], 1), tokens[late[0]], "w", Outcome.SUCCEEDED)
    again = paged.commit(
        AttemptId(run_id, late[1], 1), tokens[late[1]], "w", Outcome.FAILED, retry_in_s=0.0
    )

    assert (done.state, done.ready) == (StepState.SUCCEEDED, ())
    assert isinstance(again, Refusal)
    assert paged.states(run_id)[late[1]][0] is StepState.CANCELLED
    assert paged.cancel(run_id, "once more") == 20
    assert states_of(paged, run_id)[late[0]] == "succeeded"
    assert verify_run(paged, run_id).violations == ()


def test_a_cancel_wins_over_a_resume(paged: Ledger) -> None:
    run_id, _ = start(paged, graph(FAN).plan())
    paged.cancel(run_id, "why")
    resets = [("root", 0), *((step, 0) for step in NAMES), ("end", 0)]
    ready = paged.resume(run_id, resets)
    assert ready.has_more
    assert run_state(paged, run_id) == "resuming"
    assert verify_run(paged, run_id).violations == ()
    with pytest.raises(RunNotEnded, match="resuming"):
        paged.resume(run_id, resets)

    assert paged.cancel(run_id, "why") == 22
    assert run_state(paged, run_id) == "cancelled"
    assert verify_run(paged, run_id).violations == ()
    all_ready(paged, run_id, ready)
    all_ready(paged, run_id, paged.resume(run_id, resets))
    assert states_of(paged, run_id)["root"] == "queued"
    assert verify_run(paged, run_id).violations == ()


def test_a_step_that_is_cancelled_during_a_resume_is_reset_before(paged: Ledger) -> None:
    run_id, _ = start(paged, graph(FAN).plan())
    paged.cancel(run_id, "why")
    resets = [("root", 0), *((step, 0) for step in NAMES), ("end", 0)]
    paged.resume(run_id, resets)

    count, ready = paged.cancel_steps(run_id, ["s19"], "enough")

    assert count == 1
    assert [chain.links[0].step for chain in all_ready(paged, run_id, ready)] == ["root"]
    assert states_of(paged, run_id)["s19"] == "cancelled"
    assert verify_run(paged, run_id).violations == ()


def test_a_resume_with_another_plan_is_finished_however_late_somebody_goes_on(
    paged: Ledger,
) -> None:
    """What it has staged stays until its turn has come, and its new steps are known then."""
    run_id, tried = begun_fan(paged, running=8), NAMES[:8]
    paged.cancel(run_id, "why")
    for step in tried:
        paged.report_lost(AttemptId(run_id, step, 1), {}, owner="w")
    other = graph(FAN | {"extra": ""}, options={step: {"timeout": 5.0} for step in tried}).plan()
    resets = [(step, 1) for step in NAMES] + [("end", 0), ("extra", 0)]
    paged.resume(run_id, resets, staged=list(staged_steps(other, SETTINGS)))

    staged = list(paged.client.scan_iter(f"{paged.prefix}:{{{run_id}}}:*~*"))
    assert staged
    assert {paged.client.ttl(key) for key in staged} == {-1}
    assert "extra" not in paged.entries(run_id)
    assert verify_run(paged, run_id).violations == ()

    count, ready = paged.cancel_steps(run_id, ["extra"], "enough")
    all_ready(paged, run_id, ready)

    assert count == 1
    assert counts_in(paged.run_fields(run_id)) == {
        "succeeded": 1,
        "queued": 20,
        "waiting": 1,
        "cancelled": 1,
    }
    assert not any(map(paged.client.exists, staged))
    assert verify_run(paged, run_id).violations == ()


def test_a_run_ends_after_its_front_is_empty(paged: Ledger) -> None:
    """A failure ends all below it, page by page."""
    run_id, _ = start(paged, graph(FAN).plan())
    root = AttemptId(run_id, "root", 1)
    ready = paged.commit(root, begin(paged, run_id, "root"), "w", Outcome.FAILED).ready
    while ready.has_more:
        assert run_state(paged, run_id) == "running"
        assert int(paged.run_fields(run_id)["open"]) > 0
        assert verify_run(paged, run_id).violations == ()
        ready = paged.go_on(run_id)

    assert run_state(paged, run_id) == "failed"
    assert not paged.client.exists(paged.key(run_id, "front"))
    assert counts_in(paged.run_fields(run_id)) == {"failed": 1, "upstream_failed": 21}


def interleavings(rng: Random, paged_run: PagedRun, acts: int) -> Iterator[None]:
    for _ in range(acts):
        paged_run.act(rng)
        yield
    paged_run.finish(rng)
    yield


@given(seed=st.integers(0, 2**32), other_rules=st.sampled_from([0.0, 0.4]))
@settings(max_examples=150)
def test_whatever_comes_between_two_pages_the_record_is_right_after_each_call(
    new_ledger: NewLedger, seed: int, other_rules: float
) -> None:
    rng, any_ledger = Random(seed), new_ledger()
    ledger = Ledger(any_ledger.client, any_ledger.prefix, page=rng.randint(1, 4))
    run = PagedRun(ledger, random_graph(rng, 12, other_rules=other_rules), rng)

    for _ in interleavings(rng, run, rng.randint(0, 60)):
        assert verify_run(ledger, run.run_id).violations == ()
    assert RunState(run_state(ledger, run.run_id)).is_ended


@pytest.mark.long
@pytest.mark.parametrize("seed", range(200))
def test_interleavings_on_a_wide_graph(new_ledger: NewLedger, seed: int) -> None:
    check_wide(new_ledger(), seed, 5000)


@pytest.mark.parametrize("seed", range(2))
def test_interleavings_on_a_graph_that_is_not_so_wide(new_ledger: NewLedger, seed: int) -> None:
    check_wide(new_ledger(), seed, 1200)


def check_wide(ledger: Ledger, seed: int, width: int) -> None:
    rng = Random(seed)
    names = [f"s{i}" for i in range(width)]
    shape = graph({"root": "", **dict.fromkeys(names, "root"), "end": names})
    run = PagedRun(ledger, shape, rng)
    for _ in range(12):
        run.act(rng)
        assert verify_run(ledger, run.run_id).violations == ()
    run.cancel_whole()
    assert verify_run(ledger, run.run_id).violations == ()


def reasons(ledger: Ledger, run_id: str, step: str) -> str:
    around = look_around(ledger, run_id)
    texts = {
        " ".join(explain(ledger, SETTINGS, record, step, around).sentences)
        for record in (read_record(ledger, run_id), read_around(ledger, run_id, step, 5))
    }
    (text,) = texts
    return text


def test_why_knows_what_is_still_to_be_written(paged: Ledger) -> None:
    run_id = begun_fan(paged)
    assert "All that s19 waits for has ended; it is told so" in reasons(paged, run_id, "s19")

    cancel_page(paged, run_id, "one")
    states = states_of(paged, run_id)
    unreached = [step for step in states if states[step] in ("queued", "waiting")]
    assert unreached
    for step in unreached:
        assert "The run is being cancelled (why)" in reasons(paged, run_id, step)

    paged.cancel(run_id, "why")
    resets = [(step, 1) for step in NAMES] + [("end", 0)]
    ready = paged.resume(run_id, resets)
    assert "The run is being resumed" in reasons(paged, run_id, "s19")
    all_ready(paged, run_id, ready)
    assert "being resumed" not in reasons(paged, run_id, "end")
