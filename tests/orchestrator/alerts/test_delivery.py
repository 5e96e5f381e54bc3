"""Telling people of failed runs: once for each failure, whatever becomes of coordinators and
targets."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from orchestrator.alerts.delivery import ALERTS_AT_ONCE, HANGING_AT_ONCE, AlertDelivery, Pace
from orchestrator.alerts.message import Message
from orchestrator.attempt_id import AttemptId
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.states import Outcome
from orchestrator.settings.model import Settings
from tests.support.incidents import QUICK, Incidents
from tests.support.webhook import Webhook


def test_targets_of_the_settings_and_of_the_pipeline_are_told(
    incidents: Incidents, webhook: Webhook
) -> None:
    run_id = incidents.failed(webhook.url("pipeline"), webhook.url("both"))

    incidents.tell(run_id, incidents.delivery(webhook.url("settings"), webhook.url("both")))

    assert sorted(path for path, _ in webhook.told) == ["both", "pipeline", "settings"]
    events = incidents.events(run_id)
    assert [event for event, _ in events] == ["alert.sent"] * 3
    assert {detail["target"] for _, detail in events} == {
        f"{webhook.label} ({number})" for number in (1, 2, 3)
    }
    assert [detail["try"] for _, detail in events] == [1, 1, 1]


def test_one_incident_is_told_once_however_many_coordinators_there_are(
    incidents: Incidents, webhook: Webhook
) -> None:
    run_ids = [incidents.failed(webhook.url("hook")) for _ in range(5)]
    deliveries = [incidents.delivery() for _ in range(4)]

    def go_round(number: int) -> None:
        while not all(map(incidents.is_told, run_ids)):
            for run_id in run_ids:
                incidents.offer(deliveries[number], run_id)

    coordinators = [threading.Thread(target=go_round, args=(number,)) for number in range(4)]
    for coordinator in coordinators:
        coordinator.start()
    for coordinator in coordinators:
        coordinator.join(30)
    assert all(delivery.finish(10) for delivery in deliveries)

    told = [
        run_id
        for run_id in run_ids
        for body in webhook.messages("hook")
        if f"Run {run_id} of" in body["message"]
    ]
    assert told == run_ids
    assert [[event for event, _ in incidents.events(run_id)] for run_id in run_ids] == [
        ["alert.sent"]
    ] * 5


def test_offers_come_back_at_once_and_one_alone_is_in_flight(
    incidents: Incidents, webhook: Webhook
) -> None:
    webhook.hanging.add("hook")
    run_id = incidents.failed(webhook.url("hook"))
    delivery = incidents.delivery()

    for _ in range(100):
        # none of them waits for the target, which does not answer: the test would not end
        delivery.offer(run_id, 0, 1)
    incidents.wait_until(lambda: webhook.told)
    assert not delivery.finish(0.01)

    webhook.released.set()
    delivery.finish(10)
    assert len(webhook.told) == 1


def test_what_is_not_due_is_not_told(incidents: Incidents, webhook: Webhook) -> None:
    run_id = incidents.failed(webhook.url("hook"))
    delivery = incidents.delivery()

    delivery.offer(run_id, 2, 1)

    assert delivery.finish(0)
    assert not incidents.is_told(run_id)
    assert webhook.told == []


def test_only_so_many_are_told_at_once(incidents: Incidents, webhook: Webhook) -> None:
    webhook.hanging.add("hook")
    run_ids = [incidents.failed(webhook.url("hook")) for _ in range(ALERTS_AT_ONCE + 2)]
    delivery = incidents.delivery()
    for run_id in run_ids:
        incidents.offer(delivery, run_id)
    incidents.wait_until(lambda: len(webhook.told) == ALERTS_AT_ONCE)

    webhook.hanging.clear()
    webhook.released.set()
    for run_id in run_ids:
        incidents.tell(run_id, delivery)

    assert all(incidents.events(run_id)[-1][0] == "alert.sent" for run_id in run_ids)


def test_a_coordinator_that_is_killed_while_sending_leaves_it_to_another_one(
    incidents: Incidents, webhook: Webhook, ledger: Ledger, shared_redis_url: str
) -> None:
    webhook.hanging.add("hook")
    run_id = incidents.failed(webhook.url("hook"))
    with subprocess.Popen(
        [sys.executable, "-c", COORDINATOR, shared_redis_url, ledger.prefix, run_id],
        stdout=subprocess.DEVNULL,
    ) as first:
        incidents.wait_until(lambda: webhook.told)
        os.kill(first.pid, signal.SIGKILL)
    assert incidents.events(run_id) == []

    webhook.hanging.clear()
    incidents.tell(run_id)

    (sent,) = incidents.events(run_id)
    assert sent == ("alert.sent", {"target": webhook.label, "try": 2})
    assert len(webhook.messages("hook")) == 2


COORDINATOR = """
import sys
from orchestrator.alerts.delivery import AlertDelivery, Pace
from orchestrator.ledger.connection import connect
from orchestrator.ledger.ledger import Ledger
from orchestrator.settings.model import Settings

url, prefix, run_id = sys.argv[1:]
ledger = Ledger(connect(url), prefix)
delivery = AlertDelivery(ledger, Settings())
delivery.pace = Pace(send_within_s=60, lease_s=1.5)
report = ledger.advance_due(run_id)
delivery.offer(run_id, report.alert_at_us, report.now_us)
delivery.finish(60)
"""


def test_a_claim_that_nobody_acted_on_runs_out(
    incidents: Incidents, webhook: Webhook, ledger: Ledger
) -> None:
    run_id = incidents.failed(webhook.url("hook"))
    assert ledger.claim_alert(run_id, 0.5)

    incidents.tell(run_id)

    assert incidents.events(run_id) == [("alert.sent", {"target": webhook.label, "try": 2})]
    assert len(webhook.told) == 1


def test_a_target_that_refuses_is_told_again_and_no_other_one(
    incidents: Incidents, webhook: Webhook
) -> None:
    webhook.answers["bad"] = [500, 503]
    run_id = incidents.failed(webhook.url("bad"), f"json://localhost:{webhook.port}/good")

    incidents.tell(run_id)

    assert [path for path, _ in webhook.told if path == "bad"] == ["bad"] * 3
    assert [path for path, _ in webhook.told if path == "good"] == ["good"]
    told = [(event, detail["target"], detail["try"]) for event, detail in incidents.events(run_id)]
    assert told == [
        ("alert.sent", f"json://localhost:{webhook.port}", 1),
        ("alert.failed", webhook.label, 1),
        ("alert.failed", webhook.label, 2),
        ("alert.sent", webhook.label, 3),
    ]
    failures = [detail for event, detail in incidents.events(run_id) if event == "alert.failed"]
    assert "500" in failures[0]["error"]
    assert "503" in failures[1]["error"]
    assert failures[0]["retry_in_s"] == QUICK.retries_s[0]


def test_tries_are_given_up_at_last_and_the_run_is_over(
    incidents: Incidents, webhook: Webhook, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    webhook.answers["bad"] = [500] * 100
    run_id = incidents.failed(webhook.url("bad"))

    incidents.tell(run_id)

    events = incidents.events(run_id)
    assert [(event, detail["try"]) for event, detail in events] == [
        ("alert.failed", number) for number in (1, 2, 3, 4)
    ]
    assert [detail.get("given_up", False) for _, detail in events] == [False, False, False, True]
    assert "retry_in_s" not in events[-1][1]
    assert ledger.advance_due(run_id).is_over
    assert (
        len(
            [
                it
                for it in caplog.records
                if "could not be alerted that it failed" in it.getMessage()
            ]
        )
        == 4
    )


def test_the_pauses_grow_to_a_quarter_of_an_hour() -> None:
    assert Pace().retries_s == (5, 15, 60, 300, 900)
    assert Pace().lease_s > Pace().send_within_s


def test_a_target_that_hangs_delays_no_other_one(incidents: Incidents, webhook: Webhook) -> None:
    webhook.hanging.add("hang")
    run_id = incidents.failed(webhook.url("hang", query="?rto=30"), webhook.url("good"))
    delivery = incidents.delivery(pace=Pace(send_within_s=20, lease_s=30))

    incidents.offer(delivery, run_id)

    incidents.wait_until(lambda: incidents.events(run_id))
    (sent,) = incidents.events(run_id)
    assert sent == ("alert.sent", {"target": f"{webhook.label} (2)", "try": 1})
    assert not delivery.finish(0)


def test_a_target_that_gives_no_answer_is_given_up_in_time(
    incidents: Incidents, webhook: Webhook
) -> None:
    webhook.hanging.add("hang")
    run_id = incidents.failed(webhook.url("hang", query="?rto=30"))
    delivery = incidents.delivery(
        pace=Pace(send_within_s=0.2, lease_s=5, retries_s=(0.01,) * (HANGING_AT_ONCE + 1))
    )

    incidents.tell(run_id, delivery)

    errors = [detail["error"] for _, detail in incidents.events(run_id)]
    assert errors[:HANGING_AT_ONCE] == ["it gave no answer within 0.2 s"] * HANGING_AT_ONCE
    assert errors[-1] == f"{HANGING_AT_ONCE} earlier messages to it have not been answered yet"
    incidents.wait_until(lambda: len(webhook.told) == HANGING_AT_ONCE)


def test_a_second_failure_after_a_resume_is_told_again(
    incidents: Incidents, webhook: Webhook, ledger: Ledger
) -> None:
    run_id = incidents.failed(webhook.url("hook"))
    incidents.tell(run_id)

    ledger.resume(run_id, [("train", 0), ("report", 0)])
    incidents.fail(run_id, attempt=2)
    incidents.tell(run_id)

    first, second = webhook.messages("hook")
    assert "after its start" in first["message"]
    assert "after its resume" in second["message"]
    assert "train 2 line 29" in second["message"]


def test_a_failure_while_the_last_one_is_still_being_told_is_told_too(
    incidents: Incidents, webhook: Webhook, ledger: Ledger
) -> None:
    webhook.hanging.add("hook")
    run_id = incidents.failed(webhook.url("hook"))
    slow = incidents.delivery()
    incidents.offer(slow, run_id)
    incidents.wait_until(lambda: webhook.told)

    ledger.resume(run_id, [("train", 0), ("report", 0)])
    incidents.fail(run_id, attempt=2)
    webhook.hanging.clear()
    webhook.released.set()
    slow.finish(10)
    incidents.tell(run_id)

    assert "train 2 line 29" in webhook.messages("hook")[-1]["message"]


def test_runs_that_succeed_or_are_cancelled_are_told_to_nobody(
    incidents: Incidents, webhook: Webhook, ledger: Ledger
) -> None:
    succeeded, cancelled = (incidents.submit(webhook.url("hook")) for _ in range(2))
    for step in ("train", "report"):
        ledger.commit(
            AttemptId(succeeded, step, 1),
            incidents.begin(succeeded, step),
            "gpu@host",
            Outcome.SUCCEEDED,
        )
    ledger.cancel(cancelled, "enough")
    delivery = incidents.delivery()

    for run_id in (succeeded, cancelled):
        assert ledger.run_fields(run_id)["state"] in ("succeeded", "cancelled")
        incidents.offer(delivery, run_id)
        delivery.offer(run_id, 0, 1)  # even if it were offered
        assert delivery.finish(10)
        assert incidents.events(run_id) == []

    assert webhook.told == []


def test_without_targets_there_is_nothing_to_tell_and_apprise_is_not_loaded(
    incidents: Incidents, ledger: Ledger, shared_redis_url: str
) -> None:
    run_id = incidents.failed()

    code = f"{COORDINATOR}\nprint('apprise' in sys.modules)"
    told = subprocess.run(
        [sys.executable, "-c", code, shared_redis_url, ledger.prefix, run_id],
        capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip

    assert told.stdout == "False\n"
    assert ledger.advance_due(run_id).is_over
    assert incidents.events(run_id) == []


def test_secrets_come_from_the_environment_of_who_sends(
    incidents: Incidents, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK_PATH", "hidden-path")
    monkeypatch.setenv("HOOK_PORT", str(webhook.port))
    run_id = incidents.failed("json://127.0.0.1:${HOOK_PORT}/$HOOK_PATH")

    incidents.tell(run_id)

    assert len(webhook.messages("hidden-path")) == 1
    assert incidents.events(run_id) == [("alert.sent", {"target": "json://127.0.0.1", "try": 1})]


def test_a_variable_that_this_coordinator_has_not_is_an_event_and_another_one_may_send(
    incidents: Incidents, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = incidents.failed(f"json://127.0.0.1:{webhook.port}/$HOOK_PATH")
    delivery = incidents.delivery()
    incidents.offer(delivery, run_id)
    assert delivery.finish(10)

    monkeypatch.setenv("HOOK_PATH", "hook")
    incidents.tell(run_id)

    (failed, detail), (sent, _) = incidents.events(run_id)
    assert (failed, sent) == ("alert.failed", "alert.sent")
    assert detail["error"] == "the environment variable HOOK_PATH is not set"
    assert len(webhook.messages("hook")) == 1


@pytest.mark.parametrize("level", [logging.DEBUG, logging.WARNING])
def test_no_secret_is_in_events_or_logs(
    incidents: Incidents, webhook: Webhook, caplog: pytest.LogCaptureFixture, level: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("HOOK_TOKEN", "tok/en-7 f@rd")
    caplog.set_level(level)
    for path in ("hush5-path", "tok/en-7%20f@rd"):
        webhook.answers[path] = [500] * 9
    webhook.hanging.add("hush4-hang")
    urls = [
        webhook.url("hush5-path", "hush1-user:hush2-pass@", "?+X-Key=hush3-key"),
        webhook.url("hush4-hang", "hush1-user:hush2-pass@", "?rto=0.1"),
        webhook.url("$HOOK_TOKEN", "hush1-user:$HOOK_TOKEN@"),
        "json://hush1-user:hush2-pass@nowhere.invalid/hush5-path",
        "slack://hush1-user@hush2-pass",
        "hush1-user:hush2-pass",
        "hush5://hush2-pass/$HUSH_UNSET",
    ]
    run_id = incidents.failed(*urls)
    delivery = incidents.delivery()

    incidents.tell(run_id, delivery)

    told = repr(incidents.events(run_id)) + caplog.text + repr(delivery) + repr(delivery.__dict__)
    assert {event for event, _ in incidents.events(run_id)} == {"alert.failed"}
    for secret in ("hush1", "hush2", "hush3", "hush4", "hush5-", "tok/", "tok%2F", "f@rd", "en-7"):
        assert secret not in told


def test_a_run_that_is_gone_is_no_trouble(
    incidents: Incidents, webhook: Webhook, ledger: Ledger, wait_until: Callable[..., None]
) -> None:
    delivery = incidents.delivery(webhook.url("hook"))

    delivery.offer("never-there", 0, 1)

    assert delivery.finish(10)
    assert webhook.told == []


def test_what_is_no_failure_of_a_run_is_announced_to_each_target_of_the_settings_once(
    ledger: Ledger, webhook: Webhook, caplog: pytest.LogCaptureFixture
) -> None:
    webhook.answers["bad"] = [500]
    settings = Settings(alerts=(webhook.url("good"), webhook.url("bad")))

    AlertDelivery(ledger, settings).announce(Message("title", "body"))

    assert [body["title"] for body in webhook.messages("good")] == ["title"]
    assert len(webhook.messages("bad")) == 1
    assert "could not be alerted: title" in caplog.text
