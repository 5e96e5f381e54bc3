"""The ledger's mark that somebody is to be told of a failed run: who may tell, and what came of
it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from orchestrator.attempt_id import AttemptId
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.states import Outcome
from orchestrator.ledger.values import AlertTry
from tests.support.runs import begin, run_state, start_graph

SENT: tuple[str, dict[str, Any]] = ("alert.sent", {"target": "json://here"})


def failed_run(ledger: Ledger) -> str:
    run_id = start_graph(ledger, {"a": ""})
    fail(ledger, run_id, 1)
    return run_id


def fail(ledger: Ledger, run_id: str, attempt: int) -> None:
    ledger.commit(
        AttemptId(run_id, "a", attempt), begin(ledger, run_id, "a", attempt), "w", Outcome.FAILED
    )
    assert run_state(ledger, run_id) == "failed"


def claimed(ledger: Ledger, run_id: str, lease_s: float = 60) -> AlertTry:
    alert_try = ledger.claim_alert(run_id, lease_s)
    assert alert_try is not None
    return alert_try


def alert_events(ledger: Ledger, run_id: str) -> list[str]:
    return [event.kind for event in ledger.events(run_id) if event.kind.startswith("alert.")]


def test_one_alone_may_tell_until_the_claim_runs_out(
    ledger: Ledger, wait_until: Callable[..., None]
) -> None:
    run_id = failed_run(ledger)

    assert claimed(ledger, run_id, 1).number == 1
    assert ledger.claim_alert(run_id, 60) is None
    wait_until(lambda: ledger.advance_due(run_id).alert_at_us <= ledger.advance_due(run_id).now_us)

    assert claimed(ledger, run_id).number == 2


def test_a_run_that_did_not_fail_has_nothing_to_tell(ledger: Ledger) -> None:
    cancelled, succeeded = (start_graph(ledger, {"a": ""}) for _ in range(2))
    ledger.cancel(cancelled, "enough")
    ledger.commit(
        AttemptId(succeeded, "a", 1), begin(ledger, succeeded, "a"), "w", Outcome.SUCCEEDED
    )

    for run_id in (cancelled, succeeded):
        assert ledger.claim_alert(run_id, 60) is None
        assert ledger.advance_due(run_id).alert_at_us is None


def test_what_was_sent_is_kept_for_the_next_try(ledger: Ledger) -> None:
    run_id = failed_run(ledger)
    first = claimed(ledger, run_id)

    ledger.report_alert(run_id, first, [SENT], ["one"], retry_in_s=60)
    ledger.report_alert(
        run_id, first, [("alert.failed", {"target": "two"})], ["one", "three"], retry_in_s=0
    )

    assert set(claimed(ledger, run_id).sent) == {"one", "three"}
    assert alert_events(ledger, run_id) == ["alert.sent", "alert.failed"]


def test_when_all_is_told_the_run_is_over(ledger: Ledger) -> None:
    run_id = failed_run(ledger)
    assert not ledger.advance_due(run_id).is_over

    ledger.report_alert(run_id, claimed(ledger, run_id), [SENT], ["one"])

    assert ledger.advance_due(run_id).is_over
    assert ledger.claim_alert(run_id, 60) is None
    assert alert_events(ledger, run_id) == ["alert.sent"]


def test_who_was_overtaken_adds_what_it_sent_and_decides_nothing(ledger: Ledger) -> None:
    run_id = failed_run(ledger)
    slow, quick = claimed(ledger, run_id, 0), claimed(ledger, run_id, 0)

    ledger.report_alert(run_id, slow, [SENT], ["one"])

    last = claimed(ledger, run_id)
    assert (quick.number, last.number) == (2, 3)
    assert last.sent == ("one",)
    assert alert_events(ledger, run_id) == ["alert.sent"]


def test_a_late_report_does_not_hush_the_failure_after_a_resume(ledger: Ledger) -> None:
    run_id = failed_run(ledger)
    late = claimed(ledger, run_id)
    ledger.resume(run_id, [("a", 0)])
    fail(ledger, run_id, 2)

    ledger.report_alert(run_id, late, [SENT], ["one"])

    second = claimed(ledger, run_id)
    assert (second.number, second.sent) == (1, ())
    assert second.incident != late.incident
    assert alert_events(ledger, run_id) == ["alert.sent"]  # it was sent, whatever became of the run


def test_a_report_whose_answer_was_lost_is_recorded_once(ledger: Ledger) -> None:
    run_id = failed_run(ledger)
    alert_try = claimed(ledger, run_id)

    for _ in range(2):
        ledger._call(
            run_id, "alerted", "report", alert_try.incident, 1, "", '["one"]', "alert.sent", "{}"
        )

    assert alert_events(ledger, run_id) == ["alert.sent"]
