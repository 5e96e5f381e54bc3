"""Attempts that are to be stopped: what the ledger tells of them, and when they are over."""

from __future__ import annotations

import pytest

from orchestrator.attempt_id import AttemptId
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.states import Outcome, StepState
from orchestrator.ledger.values import (
    OwnedAttempt,
    Refusal,
    Replaced,
    owner_of,
)
from orchestrator.record.run import read_record
from tests.support.attempts import GONE, claim, lapse, last_event, lose
from tests.support.runs import begin, events_of, start_graph, states_of


def test_a_renewal_tells_which_attempts_are_to_be_stopped_and_why(ledger: Ledger) -> None:
    steps = [
        "runs",
        "cancelled",
        "replaced",
        "again",
        "taken",
        "failed",
        "done",
        "queued",
        "retrying",
        "lost",
    ]
    run_id = start_graph(ledger, dict.fromkeys(steps, ""), {}, {"lost": {"lost_attempts": 1}})
    mine, other = owner_of("w", "i", 1), owner_of("w", "i", 2)
    for step in steps:
        if step != "queued":
            token = claim(ledger, run_id, step, 1, other if step == "taken" else mine).token
        if step in ("failed", "done", "retrying"):
            outcome = Outcome.SUCCEEDED if step == "done" else Outcome.FAILED
            retry_in_s = 60.0 if step == "retrying" else None
            ledger.commit(AttemptId(run_id, step, 1), token, "w", outcome, retry_in_s=retry_in_s)
    ledger.cancel_steps(run_id, ["cancelled"], "no need")
    for step in ("replaced", "again", "lost"):
        lose(ledger, run_id, step, 1, owner=mine)
    claim(ledger, run_id, "again", 2, mine)
    held = {step: OwnedAttempt(AttemptId(run_id, step, 1), mine) for step in steps}

    answers = [ledger.renew(list(held.values()), 60.0) for _ in range(2)]

    # Who has ended its attempt itself may still be about to send what is next: it is left in peace.
    assert answers[0] == answers[1] == {
        held["cancelled"]: "cancelled",
        held["replaced"]: "fenced",
        held["again"]: "fenced",
        held["taken"]: "fenced",
        held["lost"]: "fenced",
    }  # fmt: skip


def test_a_renewal_prolongs_the_leases_of_its_own_attempts_alone(ledger: Ledger) -> None:
    runs = [start_graph(ledger, {"a": "", "b": ""}) for _ in range(2)]
    held = []
    for run_id in runs:
        claim(ledger, run_id, "a", 1, "w i.1.", 0.0)
        claim(ledger, run_id, "b", 1, "w i.2.", 0.0)
        held += [
            OwnedAttempt(AttemptId(run_id, "a", 1), "w i.1."),
            OwnedAttempt(AttemptId(run_id, "b", 1), "w i.1."),
        ]

    ledger.client.script_flush()
    answers = ledger.renew(held, 60.0)

    assert answers == {it: "fenced" for it in held if it.step == "b"}
    assert [[it.step for it in ledger.advance_due(run_id).expired] for run_id in runs] == [
        ["b"],
        ["b"],
    ]
    assert ledger.renew([], 60.0) == {}


def test_a_renewal_for_a_run_that_is_not_there_leaves_no_trace(ledger: Ledger) -> None:
    held = OwnedAttempt(AttemptId("gone", "a", 1), "w")

    assert ledger.renew([held], 60.0) == {held: "fenced"}
    ledger.report_stopped(held, {})
    assert list(ledger.client.scan_iter(f"{ledger.prefix}:*")) == []


def test_a_cancelled_attempt_keeps_its_lease_until_it_is_gone(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": "", "b": ""})
    for step in "ab":
        claim(ledger, run_id, step, 1, owner_of("w", "i", 1))
    ledger.cancel(run_id, "enough")
    held = OwnedAttempt(AttemptId(run_id, "a", 1), owner_of("w", "i", 1))

    assert [attempt.step for attempt in ledger.stopping(run_id)] == ["a", "b"]
    assert not ledger.advance_due(run_id).is_over
    ledger.report_stopped(
        OwnedAttempt(AttemptId(run_id, "b", 1), owner_of("w", "i", 2)), {"how": "it was another"}
    )
    ledger.report_stopped(held, {"how": "killed", "after_s": 0.5, "processes": 3})

    assert [it.step for it in ledger.stopping(run_id)] == ["b"]
    stopped = read_record(ledger, run_id).steps["a"].attempts[0].stopped
    assert (stopped["how"], stopped["after_s"], stopped["processes"]) == ("killed", 0.5, 3)


def test_a_cancelled_attempt_whose_worker_is_gone_is_over_when_somebody_says_that_its_lease_ran_out(
    ledger,
) -> None:
    run_id = start_graph(ledger, {"a": ""})
    token = begin(ledger, run_id, "a")
    ledger.cancel(run_id, "enough")
    assert isinstance(ledger.report_lost(AttemptId(run_id, "a", 1), GONE), Refusal)
    lapse(ledger, run_id, "a")

    report = ledger.advance_due(run_id)

    # Nothing is decided yet: while the server was away no worker could renew.
    assert ([(it.step, it.is_stopping) for it in report.expired], report.is_over) == (
        [("a", True)],
        False,
    )
    assert ledger.report_lost(AttemptId(run_id, "a", 1), GONE) == Replaced(StepState.CANCELLED, ())
    assert (ledger.advance_due(run_id).is_over, ledger.stopping(run_id)) == (True, [])
    assert last_event(ledger, run_id, "attempt.stopped").fields == {
        "how": "its worker is gone: the lease ran out", "worker": "w"
    }  # fmt: skip
    # Should it live after all, it is told to stop, is waited for again, and commits nothing.
    held = OwnedAttempt(AttemptId(run_id, "a", 1), "w")
    assert ledger.renew([held], 60.0) == {held: "cancelled"}
    assert [attempt.step for attempt in ledger.stopping(run_id)] == ["a"]
    assert isinstance(
        ledger.commit(AttemptId(run_id, "a", 1), token, "w", Outcome.SUCCEEDED), Refusal
    )


@pytest.mark.parametrize(
    ("end", "how"),
    [
        (
            lambda ledger, held: ledger.report_lost(
                AttemptId(held.run_id, "a", 1), GONE, owner=held.owner
            ),
            "its process died",
        ),
        (
            lambda ledger, held: ledger.hand_over(
                AttemptId(held.run_id, "a", 1), "", owner=held.owner
            ),
            "its worker ended",
        ),
        (
            lambda ledger, held: ledger.report_stopped(held, {"how": "alone"}, ended_alone=True),
            "alone",
        ),
    ],
    ids=["lost", "handed over", "refused"],
)
def test_a_cancelled_attempt_is_over_however_it_ends_and_that_is_told_once(
    ledger, end, how
) -> None:
    run_id = start_graph(ledger, {"a": ""})
    claim(ledger, run_id, "a", 1, owner_of("w", "i", 1))
    ledger.cancel(run_id, "enough")
    held = OwnedAttempt(AttemptId(run_id, "a", 1), owner_of("w", "i", 1))

    for _ in range(2):
        end(ledger, held)

    assert (ledger.stopping(run_id), ledger.advance_due(run_id).is_over) == ([], True)
    assert [
        event.fields["how"] for event in ledger.events(run_id) if event.kind == "attempt.stopped"
    ] == [how]
    # A renewal that was under way does not take the lease up again.
    assert ledger.renew([held], 60.0) == {held: "fenced"}
    assert ledger.stopping(run_id) == []


def test_an_attempt_that_ended_alone_is_no_news_unless_its_step_was_cancelled(ledger) -> None:
    run_id = start_graph(ledger, {"a": ""})
    token = claim(ledger, run_id, "a", 1, owner_of("w", "i", 1)).token
    held = OwnedAttempt(AttemptId(run_id, "a", 1), owner_of("w", "i", 1))
    before = events_of(ledger, run_id)

    ledger.report_stopped(held, {"how": "alone"}, ended_alone=True)
    assert events_of(ledger, run_id) == before
    ledger.commit(AttemptId(run_id, "a", 1), token, "w", Outcome.SUCCEEDED)
    ledger.report_stopped(held, {"how": "alone"}, ended_alone=True)

    assert "attempt.stopped" not in [event for event, _, _ in events_of(ledger, run_id)]


@pytest.mark.parametrize("fails", [True, False], ids=["upstream_failed", "skipped"])
def test_who_was_taken_over_stops_also_when_its_step_does_not_run_again(ledger, fails) -> None:
    """Its step failed behind its back, was resumed with what is above it, and that went
    otherwise."""
    rules = {"b": "all_success" if fails else "one_failed"}
    run_id = start_graph(ledger, {"a": "", "b": "a"}, rules, {"b": {"lost_attempts": 1}})
    outcomes = [Outcome.SUCCEEDED, Outcome.FAILED] if fails else [Outcome.FAILED, Outcome.SUCCEEDED]
    ledger.commit(AttemptId(run_id, "a", 1), begin(ledger, run_id, "a"), "w", outcomes[0])
    claim(ledger, run_id, "b", 1, owner_of("w", "i", 1))
    held = OwnedAttempt(AttemptId(run_id, "b", 1), owner_of("w", "i", 1))
    ledger.report_lost(AttemptId(run_id, "b", 1), GONE, owner=held.owner)
    ledger.resume(run_id, [("a", 0), ("b", 0)], again=["a"] if fails else [])
    ledger.commit(AttemptId(run_id, "a", 2), begin(ledger, run_id, "a", 2), "w", outcomes[1])

    assert states_of(ledger, run_id)["b"] == ("upstream_failed" if fails else "skipped")
    assert ledger.renew([held], 60.0) == {held: "fenced"}


def test_an_attempt_that_failed_behind_its_workers_back_commits_nothing_more(
    ledger: Ledger,
) -> None:
    run_id = start_graph(ledger, {"a": ""}, {}, {"a": {"lost_attempts": 1}})
    token = begin(ledger, run_id, "a")
    lapse(ledger, run_id, "a")
    ledger.report_lost(AttemptId(run_id, "a", 1), GONE)

    for outcome in (Outcome.SUCCEEDED, Outcome.FAILED):
        assert isinstance(ledger.commit(AttemptId(run_id, "a", 1), token, "w", outcome), Refusal)
    assert [event for event, _, _ in events_of(ledger, run_id)].count("commit.refused") == 2
