"""What people are told of a failed run."""

from __future__ import annotations

import json

from orchestrator.alerts import message
from orchestrator.alerts.message import failure_message
from orchestrator.attempt_id import AttemptId
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.states import Outcome
from tests.support.incidents import Incidents
from tests.support.webhook import Webhook


def test_a_message_tells_the_cause_the_last_log_lines_and_how_to_go_on(
    incidents: Incidents, webhook: Webhook
) -> None:
    run_id = incidents.failed(webhook.url("hook"))

    incidents.tell(run_id)

    (told,) = webhook.messages("hook")
    assert told["type"] == "failure"
    assert (
        told["title"]
        == "pipeline churn failed: step train failed in attempt 1 on gpu@host: Broken: never works"
    )
    first, cause, resume, log = told["message"].split("\n\n")
    assert first.startswith(f"Run {run_id} of pipeline churn failed 0.")
    assert first.endswith(" s after its start.")
    assert cause.splitlines() == [
        "step train failed in attempt 1 on gpu@host: Broken: never works",
        "not at all",
        "not run because of that: report",
    ]
    assert resume == f"To go on where it stopped:\norchestrator resume {run_id}"
    assert log.splitlines()[0] == "Last lines of step train, attempt 1:"
    assert log.splitlines()[1:] == [f"| train 1 line {number}" for number in range(20, 30)]


def test_a_missed_deadline_is_told_with_what_was_running(
    incidents: Incidents, webhook: Webhook, ledger: Ledger
) -> None:
    run_id = incidents.submit(webhook.url("hook"), deadline=0.05)
    incidents.begin(run_id)
    incidents.wait_until(lambda: ledger.advance_due(run_id).state == "failed")

    incidents.tell(run_id)

    (told,) = webhook.messages("hook")
    assert told["title"] == "pipeline churn failed: missed its deadline of 0.05 s"
    assert "\nmissed its deadline of 0.05 s\nrunning then: train\n" in told["message"]
    assert "| train 1 line 29" in told["message"]


def test_a_run_that_was_repaired_to_death_is_told_by_its_last_loss(
    incidents: Incidents, webhook: Webhook, ledger: Ledger
) -> None:
    run_id = incidents.submit(webhook.url("hook"))
    lost = {
        "error": {"type": "WorkerLost", "message": "killed by signal 9"},
        "found": "its process is gone",
    }
    for attempt in (1, 2, 3):
        token = incidents.begin(run_id, attempt=attempt)
        ledger.report_lost(AttemptId(run_id, "train", attempt), lost, token=token)

    incidents.tell(run_id)

    (told,) = webhook.messages("hook")
    assert (
        "step train failed in attempt 3 on gpu@host: WorkerLost: killed by signal 9 (lost attempt 3"
        " of 3" in (told["message"])
    )


def test_many_failures_and_long_texts_are_cut(incidents: Incidents, ledger: Ledger) -> None:
    steps = [f"step-{number:03}" for number in range(100)]
    run_id = incidents.submit(steps=dict.fromkeys(steps, "") | {"last": " ".join(steps)})
    for name in steps:
        incidents.fail(run_id, name, error={"type": "E", "message": "x" * 100_000})

    told = failure_message(ledger, run_id)

    assert len(told.title) <= message.TITLE_CHARS
    assert len(told.body) < 20_000
    assert told.body.count("failed in attempt 1") == message.FAILURES
    assert f"{100 - message.FAILURES} more steps failed" in told.body
    assert told.body.count("Last lines of step") == message.LOGS
    assert told.body.index("orchestrator resume") < told.body.index("Last lines of step")


def test_a_step_without_error_or_log_is_told_all_the_same(
    incidents: Incidents, ledger: Ledger
) -> None:
    run_id = incidents.submit(steps={"quiet": ""})
    claim = ledger.claim(AttemptId(run_id, "quiet", 1), "1.7.1", "w@host")
    ledger.commit(AttemptId(run_id, "quiet", 1), claim.token, "w@host", Outcome.FAILED)  # type: ignore[union-attr]

    told = failure_message(ledger, run_id)

    assert "step quiet failed in attempt 1 on w@host: no error was recorded" in told.body
    assert "Last lines" not in told.body


def test_the_time_counts_from_the_last_resume(incidents: Incidents, ledger: Ledger) -> None:
    run_id = incidents.failed()
    ledger.resume(run_id, [("train", 0), ("report", 0)])
    incidents.fail(run_id, attempt=2)

    told = failure_message(ledger, run_id)

    assert " s after its resume." in told.body
    assert "step train failed in attempt 2" in told.body


def test_text_reaches_the_service_as_it_was_written(incidents: Incidents, webhook: Webhook) -> None:
    run_id = incidents.submit(webhook.url("hook"))
    incidents.fail(run_id, error={"type": "E", "message": json.dumps({"a": [1, "&<>*_`@here"]})})

    incidents.tell(run_id)

    (told,) = webhook.messages("hook")
    assert '{"a": [1, "&<>*_`@here"]}' in told["message"]
