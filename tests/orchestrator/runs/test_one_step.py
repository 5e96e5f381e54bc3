"""Why a step is where it is, answered from little of its run as from all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.attempt_id import AttemptId
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.states import Outcome
from orchestrator.ledger.values import BackOff, OwnedAttempt, Reused
from orchestrator.record.run import read_record
from orchestrator.runs import one_step
from orchestrator.runs.one_step import read_around
from orchestrator.runs.reasons import NAMED_STEPS, explain
from orchestrator.runs.surroundings import look_around
from tests.support.network.fates import random_fate
from tests.support.network.network import Network
from tests.support.runs import SETTINGS, begin, graph, random_graph, start, start_graph

WIDTHS = (200, 2000)
ERROR = {"type": "ValueError", "message": "bad", "traceback": ""}

NewLedger = Callable[[], Ledger]


def check(ledger: Ledger, run_id: str, *steps: str) -> None:
    """Little of the run gives the answer that all of it gives."""
    around, record = look_around(ledger, run_id), read_record(ledger, run_id)
    for step in steps or record.steps:
        whole = explain(ledger, SETTINGS, record, step, around)
        little = read_around(ledger, run_id, step, NAMED_STEPS)
        assert explain(ledger, SETTINGS, little, step, around) == whole, step


@pytest.fixture
def never_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing read all events of a run in order to explain one step."""

    def refuse(*_: Any) -> None:
        raise AssertionError("all of the run was read")

    monkeypatch.setattr(one_step, "read_record", refuse)


@given(
    seed=st.integers(0, 2**32),
    other_rules=st.sampled_from([0.0, 0.3, 0.8]),
    trouble=st.sampled_from([0.0, 0.2, 0.6]),
)
@settings(max_examples=60)
def test_at_every_moment_of_any_run_little_of_it_tells_what_all_of_it_does(
    new_ledger: NewLedger, seed, other_rules, trouble
):
    rng = Random(seed)
    shape = random_graph(rng, 9, other_rules=other_rules, options=True)
    network = Network(
        new_ledger(), shape, random_fate(rng, shape, trouble), rng,
        max_links=rng.randint(1, 4), age_us=rng.choice([0, 0, 10**15 - 2 * 10**6]),
    )  # fmt: skip
    acts = [network.deliver, network.finish] * 6 + [
        network.stray, network.say_late, network.die, network.witness, network.lose_a_message,
        network.hand_over, network.put_back, network.renew, network.tend, network.resend,
        network.cancel_steps,
    ]  # fmt: skip

    for _ in range(rng.randint(1, 3)):
        for _ in range(rng.randint(0, 5)):
            for _ in range(rng.randint(1, 10)):
                rng.choice(acts)()
            check(network.ledger, network.run_id)
        if rng.random() < 0.3:
            network.cancel()
            check(network.ledger, network.run_id)
        network.run_to_its_end()
        check(network.ledger, network.run_id)
        network.fate = random_fate(rng, network.graph, trouble)
        network.resume()
        check(network.ledger, network.run_id)


@pytest.mark.parametrize("ahead_ms", [3_600_000, 50])
def test_a_clock_that_was_put_back_changes_no_answer(ledger: Ledger, ahead_ms: int) -> None:
    run_id = fan(ledger, 3)
    key, newest = ledger.key(run_id, "events"), ledger.last_event_id(run_id).partition("-")[0]
    entry = {"event": "clock.paused", "at": 0, "step": "", "attempt": 0, "detail": ""}
    ledger.client.xadd(key, entry, f"{int(newest) + ahead_ms}-0")  # later ids count on from here

    for reach in REACHES.values():
        reach(ledger, run_id)
        check(ledger, run_id)


def test_of_many_that_waited_too_long_together_each_names_its_own_cause(ledger: Ledger) -> None:
    options = {step: {"queue_timeout": 1e-6} for step in "abc"}
    run_id = start_graph(
        ledger,
        {"a": "", "b": "", "c": "", "x": "a", "y": "b", "z": "c", "end": "x y z"},
        {},
        options,
    )
    ledger.advance_due(run_id)

    check(ledger, run_id)
    because = {step: read_around(ledger, run_id, step, 5).steps[step].because for step in "xyz"}
    assert because == {"x": "a", "y": "b", "z": "c"}


def test_of_many_that_were_cancelled_together_each_names_its_own_cause(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": "", "b": "", "x": "a", "y": "b"})
    ledger.cancel_steps(run_id, ["a", "b"], "no need")

    check(ledger, run_id)
    because = {step: read_around(ledger, run_id, step, 5).steps[step].because for step in "xy"}
    assert because == {"x": "a", "y": "b"}


def test_a_step_that_was_taken_over_tells_from_where(ledger: Ledger) -> None:
    plan = graph({"a": "", "b": "a"}).plan()
    run_id, _ = start(ledger, plan, reused={"a": Reused("other", 3)})

    check(ledger, run_id)
    assert read_around(ledger, run_id, "a", 5).steps["a"].reused == Reused("other", 3)


def test_a_step_that_the_run_does_not_have_is_not_in_what_is_read(ledger: Ledger) -> None:
    assert read_around(ledger, start_graph(ledger, {"a": ""}), "b", 5).steps == {}


def test_where_the_events_do_not_tell_the_state_all_of_the_run_is_read(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = start_graph(ledger, {"a": "", "b": ""})
    begin(ledger, run_id, "a")
    ledger.client.delete(ledger.key(run_id, "events"))
    monkeypatch.setattr(one_step, "read_record", lambda *_: "all of it")

    assert read_around(ledger, run_id, "a", 5) == "all of it"


# -- what it costs ---------------------------------------------------------------------------------


def fan(ledger: Ledger, width: int) -> str:
    """Start a run of `width` steps below its root, and as many below one that fails and one that is
    skipped; beside them the steps of `REACHES`."""
    steps = dict.fromkeys(REACHES, "root") | {"root": "", "skips": "succeeds"}
    for above in ("root", "fails", "skips"):
        steps |= {f"{above}-{number}": above for number in range(width)}
    steps |= {"below": "fails-0", "skipped": "skips-0"}
    return start_graph(ledger, steps, {"skips": "one_failed"})


def _end(ledger: Ledger, run_id: str, step: str, outcome: Outcome, **more: Any) -> None:
    attempt = more.pop("attempt", 1)
    token = begin(ledger, run_id, step, attempt)
    ledger.commit(AttemptId(run_id, step, attempt), token, "w", outcome, **more)


def _fail_twice(ledger: Ledger, run_id: str) -> None:
    _end(ledger, run_id, "fails twice", Outcome.FAILED, detail={"error": ERROR}, retry_in_s=0.0)
    ledger.advance_due(run_id)
    _end(ledger, run_id, "fails twice", Outcome.TIMED_OUT, detail={"error": ERROR}, attempt=2)


def _put_back(ledger: Ledger, run_id: str) -> None:
    attempt, detail = AttemptId(run_id, "put back", 1), {"reason": "no store"}
    token = begin(ledger, run_id, "put back")
    ledger.put_back(attempt, detail, BackOff(60.0, 60.0), token=token)


def _stop(ledger: Ledger, run_id: str) -> None:
    attempt = AttemptId(run_id, "stopped", 1)
    ledger.claim(attempt, "i.7.x", "w")
    ledger.cancel_steps(run_id, ["stopped"], "not wanted")
    ledger.report_stopped(OwnedAttempt(attempt, "w i.7."), {"how": "it ended", "after_s": 0.25})


REACHES: dict[str, Callable[[Ledger, str], object]] = {
    "root": lambda ledger, run_id: _end(ledger, run_id, "root", Outcome.SUCCEEDED),
    "queued": lambda ledger, run_id: None,
    "runs": lambda ledger, run_id: begin(ledger, run_id, "runs"),
    "succeeds": lambda ledger, run_id: _end(ledger, run_id, "succeeds", Outcome.SUCCEEDED),
    "skipped": lambda ledger, run_id: None,
    "fails": lambda ledger, run_id: _end(
        ledger, run_id, "fails", Outcome.FAILED, detail={"error": ERROR}
    ),
    "below": lambda ledger, run_id: None,
    "fails twice": _fail_twice,
    "retries": lambda ledger, run_id: _end(
        ledger, run_id, "retries", Outcome.FAILED, detail={"error": ERROR}, retry_in_s=90.0
    ),
    "put back": _put_back,
    "stopped": _stop,
}
"""The steps whose reading is measured, in the order in which they come to where they stay."""


@dataclass
class Traffic:
    commands: int = 0
    values: int = 0


@contextmanager
def traffic(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Iterator[Traffic]:
    """Count the commands that are sent inside the block, and the values in their answers."""
    counted, execute = Traffic(), ledger.client.execute_command

    def counting(*args: Any, **options: Any) -> Any:
        answer = execute(*args, **options)
        counted.commands += 1
        counted.values += len(answer) if isinstance(answer, list | dict) else 1
        return answer

    with monkeypatch.context() as patched:
        patched.setattr(ledger.client, "execute_command", counting)
        yield counted


@pytest.mark.usefixtures("never_all")
def test_what_is_read_for_a_step_does_not_grow_with_the_width_of_its_run(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: dict[str, list[Traffic]] = {step: [] for step in REACHES}
    for width in WIDTHS:
        run_id = fan(ledger, width)
        for reach in REACHES.values():
            reach(ledger, run_id)
        check(ledger, run_id, *REACHES)
        for step, found in read.items():
            with traffic(ledger, monkeypatch) as counted:
                read_around(ledger, run_id, step, NAMED_STEPS)
            found.append(counted)

    for step, (narrow, wide) in read.items():
        assert wide.commands <= narrow.commands + 2, (step, narrow, wide)
        assert wide.values < WIDTHS[1] / 4, (step, narrow, wide)


def test_what_is_read_for_a_step_of_a_cancelled_run_does_not_grow_with_its_width(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: dict[str, list[Traffic]] = {"root": [], "root-7": [], "below": []}
    for width in WIDTHS:
        run_id = fan(ledger, width)
        REACHES["root"](ledger, run_id)
        begin(ledger, run_id, "root-7")
        ledger.cancel(run_id, "enough")
        check(ledger, run_id, *read)
        for step, found in read.items():
            with traffic(ledger, monkeypatch) as counted:
                read_around(ledger, run_id, step, NAMED_STEPS)
            found.append(counted)

    assert all(wide.values < WIDTHS[1] / 4 for _, wide in read.values()), read
