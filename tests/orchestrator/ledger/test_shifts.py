"""The server's clock does not show what it should: nothing is judged; each run is shifted once, and
says so."""

from __future__ import annotations

import pytest

from orchestrator.attempt_id import AttemptId
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.server_clock import ClockStep
from orchestrator.ledger.states import Outcome, RunState
from orchestrator.ledger.values import Refusal
from orchestrator.record.run import read_record
from orchestrator.record.verification import verify_run
from tests.support.runs import INSTANT_S, begin, start_graph, states_of

HOUR_US = 3_600_000_000
LEASE_S = 5.0
STEPS = {"leased": "", "retrying": "", "queued": "", "last": "leased retrying queued"}


def full_run(ledger: Ledger) -> str:
    run_id = start_graph(
        ledger, STEPS, {}, {"queued": {"queue_timeout": 600.0}}, deadline_s=900, limits=1
    )
    begin(ledger, run_id, "leased")
    token = begin(ledger, run_id, "retrying")
    ledger.commit(AttemptId(run_id, "retrying", 1), token, "w", Outcome.FAILED, retry_in_s=300)
    return run_id


def times(ledger: Ledger, run_id: str) -> dict[str, int]:
    queue = ledger.entries(run_id)["queued"].queue
    sent = {step: at_us for step, _, at_us in ledger.queued_before(run_id, queue, 3, 2**52)}
    due = {step: ledger.due_at(run_id, step) or 0 for step in ("leased", "retrying", "queued")}
    return due | {"sent": sent["queued"], "deadline": int(ledger.run_fields(run_id)["deadline_at"])}


@pytest.mark.parametrize("by_us", [HOUR_US, -HOUR_US])
def test_a_run_is_shifted_once_by_each_step_of_the_clock(ledger, by_us) -> None:
    run_id = full_run(ledger)
    before, record = times(ledger, run_id), read_record(ledger, run_id)
    # The clock would now show something else by so much; what is in the run was written by the
    # clock as it was.
    step = ClockStep(1, by_us, ledger.now_us() + abs(by_us) + 1)

    assert ledger.shift(run_id, step, LEASE_S)
    assert not ledger.shift(run_id, step, LEASE_S)

    after = times(ledger, run_id)
    assert {name: after[name] - before[name] for name in after if name != "leased"} == {
        "retrying": by_us, "queued": by_us, "sent": by_us, "deadline": by_us
    }  # fmt: skip
    assert abs(after["leased"] - ledger.now_us()) < LEASE_S * 1e6
    (shifted,) = [event for event in ledger.events(run_id) if event.kind == "clock.shifted"]
    assert shifted.fields["by_s"] * 1e6 == by_us
    now = read_record(ledger, run_id)
    # the record's times are not shifted
    assert now.steps["retrying"].attempts == record.steps["retrying"].attempts
    assert now.steps["retrying"].due_at_us == after["retrying"]
    assert not verify_run(ledger, run_id).violations


def test_what_was_written_since_the_clock_was_put_is_left_as_it_is(ledger) -> None:
    for by_us in (HOUR_US, -HOUR_US):
        last_us = ledger.now_us() - by_us  # what the clock as it was would show just now
        run_id = full_run(ledger)
        before = times(ledger, run_id)

        assert ledger.shift(run_id, ClockStep(1, by_us, last_us), LEASE_S)

        after = times(ledger, run_id)
        assert {
            name: after[name] - before[name] for name in after if name != "leased"
        } == dict.fromkeys(("retrying", "queued", "sent", "deadline"), 0)


@pytest.mark.parametrize("off_us", [3_000_000, -3_000_000])
def test_nothing_is_judged_by_a_clock_that_shows_something_else(ledger, off_us) -> None:
    run_id = start_graph(
        ledger,
        {"a": "", "b": "", "c": ""},
        {},
        {"b": {"queue_timeout": INSTANT_S}},
        deadline_s=INSTANT_S,
    )
    ledger.claim(AttemptId(run_id, "a", 1), "c", "w", lease_s=0.0)
    ledger.commit(
        AttemptId(run_id, "c", 1), begin(ledger, run_id, "c"), "w", Outcome.FAILED, retry_in_s=0
    )
    before = states_of(ledger, run_id)

    report = ledger.advance_due(run_id, expected_us=ledger.now_us() + off_us)
    lost = ledger.report_lost(AttemptId(run_id, "a", 1), {}, expected_us=ledger.now_us() + off_us)

    assert (report.is_judged, report.ready, report.expired, report.waiting) == (False, (), (), ())
    assert isinstance(lost, Refusal)
    assert states_of(ledger, run_id) == before
    assert not ledger.advance_due(
        run_id, expected_us=ledger.now_us(), clock_step=1
    ).is_judged  # not shifted by that step yet
    assert ledger.shift(
        run_id, ClockStep(1, HOUR_US, ledger.now_us() - HOUR_US - 5_000_000), LEASE_S
    )
    assert (
        ledger.advance_due(run_id, expected_us=ledger.now_us() + off_us // 3, clock_step=1).state
        is RunState.FAILED
    )


def test_a_run_that_is_started_or_resumed_knows_the_steps_before_it(ledger) -> None:
    ledger.client.set(f"{ledger.prefix}:clock", f"[[3, {HOUR_US}, 1]]")
    run_id = start_graph(ledger, {"a": ""})
    assert not ledger.shift(run_id, ClockStep(3, HOUR_US, 1), LEASE_S)

    ledger.cancel(run_id, "enough")
    ledger.client.set(f"{ledger.prefix}:clock", f"[[4, {HOUR_US}, 1]]")
    ledger.resume(run_id, [("a", 0)])

    assert not ledger.shift(run_id, ClockStep(4, HOUR_US, 1), LEASE_S)
    assert ledger.advance_due(run_id).clock_step == 4


def test_an_absence_of_the_server_is_added_to_the_limits_once_whoever_saw_it(ledger) -> None:
    run_id = full_run(ledger)
    ledger.advance_due(run_id)
    before = times(ledger, run_id)
    # since then it was away
    ledger.client.hset(ledger.key(run_id, "run"), "tended_at", ledger.now_us() - 17_000_000)

    for away_s in (17.5, 60.0, 17.5):
        ledger.advance_due(run_id, away_s=away_s)

    after = times(ledger, run_id)
    added = {name: after[name] - before[name] for name in after}
    assert added["deadline"] == added["queued"]
    assert 17_000_000 <= added["deadline"] < 18_000_000
    assert (added["leased"], added["retrying"], added["sent"]) == (0, 0, 0)
    (paused,) = [event for event in ledger.events(run_id) if event.kind == "clock.paused"]
    assert 17 <= paused.fields["for_s"] < 18
    assert not verify_run(ledger, run_id).violations


def test_time_in_which_nobody_tends_a_run_counts(ledger) -> None:
    run_id = full_run(ledger)
    ledger.advance_due(run_id)
    before = times(ledger, run_id)
    ledger.client.hset(ledger.key(run_id, "run"), "tended_at", ledger.now_us() - 17_000_000)

    ledger.advance_due(run_id)

    assert times(ledger, run_id) == before
