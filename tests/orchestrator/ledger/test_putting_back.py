"""An attempt that its worker could not do, for a reason that is not a fault of its step, goes back
and is due later."""

from __future__ import annotations

import pytest

from orchestrator.attempt_id import AttemptId
from orchestrator.error_card import ErrorCard
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.states import Outcome, StepState
from orchestrator.ledger.values import BackOff, Claim, Refusal, Replaced
from orchestrator.record.run import read_record
from orchestrator.record.verification import verify_run
from tests.support.runs import begin, start_graph, states_of

GONE = {
    "error": {"type": "ProcessLost", "message": "killed by signal 9"},
    "found": "process 7 is gone",
}


def claim(ledger: Ledger, run_id: str, attempt: int) -> Claim:
    answer = ledger.claim(AttemptId(run_id, "a", attempt), f"i.1.{attempt}", "w", 60.0)
    assert isinstance(answer, Claim), answer
    return answer


def make_due(ledger: Ledger, run_id: str, step: str) -> None:
    ledger.client.zadd(ledger.key(run_id, "due"), {step: 0})


WHY = {"reason": "the store is full", "host": "h"}


def due_in_s(ledger: Ledger, run_id: str, step: str) -> float:
    """Return the seconds between the last putting back of a step and its due time, by the
    record."""
    event = [it for it in ledger.events(run_id) if it.kind == "attempt.put_back"][-1]
    assert (
        event.fields["due_at"]
        == ledger.due_at(run_id, step)
        == read_record(ledger, run_id).steps[step].due_at_us
    )
    return (event.fields["due_at"] - event.at_us) / 1e6


def test_an_attempt_that_is_put_back_costs_neither_retries_nor_lost_attempts_and_waits_longer_each_time(
    ledger: Ledger,
) -> None:
    run_id = start_graph(ledger, {"a": ""}, {}, {"a": {"retries": 1, "lost_attempts": 2}})
    waits = []

    for attempt in range(1, 8):
        given = claim(ledger, run_id, attempt)
        assert given.uncounted == attempt - 1
        shown = {"token": given.token} if attempt % 2 else {"owner": "w i.1."}
        answer = ledger.put_back(
            AttemptId(run_id, "a", attempt),
            WHY,
            BackOff(10.0, 300.0),
            error=ErrorCard("ProcessLost", "killed by signal 9"),
            **shown,
        )
        assert answer == Replaced(StepState.RETRYING, ())
        waits.append(due_in_s(ledger, run_id, "a"))
        assert ledger.advance_due(run_id).ready == ()
        make_due(ledger, run_id, "a")
        assert [chain.links[0][:2] for chain in ledger.advance_due(run_id).ready] == [
            ("a", attempt + 1)
        ]

    assert waits == [10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0]
    record = read_record(ledger, run_id).steps["a"]
    assert [attempt.outcome for attempt in record.attempts] == [*[Outcome.PUT_BACK] * 7, None]
    assert {attempt.reason for attempt in record.attempts[:-1]} == {"the store is full"}
    assert verify_run(ledger, run_id).violations == ()


def test_a_loss_between_two_goings_back_lets_the_waits_begin_anew(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": ""})
    for attempt in (1, 2):
        token = claim(ledger, run_id, attempt).token
        ledger.put_back(AttemptId(run_id, "a", attempt), WHY, BackOff(10.0, 300.0), token=token)
        make_due(ledger, run_id, "a")
        ledger.advance_due(run_id)
    claim(ledger, run_id, 3)
    ledger.report_lost(AttemptId(run_id, "a", 3), GONE, owner="w i.1.")

    token = claim(ledger, run_id, 4).token
    ledger.put_back(AttemptId(run_id, "a", 4), WHY, BackOff(10.0, 300.0), token=token)

    assert due_in_s(ledger, run_id, "a") == 10.0
    assert ledger.client.hget(ledger.key(run_id, "uncounted"), "a") == "1 4 1"


@pytest.mark.parametrize(
    ("error", "state"), [(None, "retrying"), (ErrorCard("E", "full"), "failed")]
)
def test_what_may_lose_no_attempt_goes_back_only_if_it_has_not_begun(
    ledger: Ledger, error, state: str
) -> None:
    run_id = start_graph(
        ledger, {"a": "", "b": "a"}, {"b": "all_done"}, {"a": {"lost_attempts": 1}}
    )
    token = begin(ledger, run_id, "a")

    answers = [
        ledger.put_back(
            AttemptId(run_id, "a", 1), WHY, BackOff(10.0, 300.0), token=token, error=error
        )
        for _ in range(2)
    ]

    assert answers[0] == answers[1]
    assert states_of(ledger, run_id)["a"] == state
    if error:
        assert [chain.links[0].step for chain in answers[0].ready] == ["b"]
        assert read_record(ledger, run_id).steps["a"].attempts[0].error == error
    assert verify_run(ledger, run_id).violations == ()


def test_only_its_holder_puts_an_attempt_back(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": ""})
    token = begin(ledger, run_id, "a")

    for shown in ({"token": token + 1}, {"owner": "v"}, {}):
        assert isinstance(
            ledger.put_back(AttemptId(run_id, "a", 1), WHY, BackOff(1.0, 1.0), **shown), Refusal
        )
    assert states_of(ledger, run_id) == {"a": "running"}


def test_a_cancelled_attempt_that_goes_back_is_over(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": ""})
    token = begin(ledger, run_id, "a")
    ledger.cancel(run_id, "enough")

    answer = ledger.put_back(AttemptId(run_id, "a", 1), WHY, BackOff(1.0, 1.0), token=token)

    assert answer == Replaced(StepState.CANCELLED, ())
    assert ledger.stopping(run_id) == []
