"""The coordinator's round, done by one or by many."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from celery import Celery

from orchestrator.attempt_id import AttemptId
from orchestrator.coordinator.coordinator import Coordinator
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.presence import present_coordinators
from orchestrator.ledger.states import Outcome
from orchestrator.runs.submission import submit
from orchestrator.settings.model import Settings
from tests.support.runs import begin, graph


@pytest.fixture
def failed_once(ledger: Ledger, app: Celery, chosen: Settings) -> Callable[[int], str]:
    """Submit a run of so many independent steps, each of which waits for its retry, which is
    due."""

    def start(steps: int) -> str:
        run_id = submit(graph({f"s{i}": "" for i in range(steps)}).plan(), ledger, app, chosen)
        for i in range(steps):
            token = begin(ledger, run_id, f"s{i}")
            ledger.commit(AttemptId(run_id, f"s{i}", 1), token, "w", Outcome.FAILED, retry_in_s=0.0)
        return run_id

    return start


def retries_sent(messages) -> list[str]:
    return [message.kwargs["step"] for message in messages if message.kwargs["attempt"] == 2]


def test_a_round_sends_the_retries_that_are_due(
    ledger, app, chosen, messages_in, failed_once
) -> None:
    run_ids = {failed_once(2), failed_once(1)}

    Coordinator(ledger, app, Settings(poll_interval_s=0.5)).round()

    sent = [message for message in messages_in(chosen.queue_of()) if message.kwargs["attempt"] == 2]
    assert sorted(message.kwargs["step"] for message in sent) == ["s0", "s0", "s1"]
    assert {message.kwargs["run_id"] for message in sent} == run_ids
    assert sent[0].headers["shadow"] == "p.s0"


def test_many_coordinators_send_each_retry_once(
    ledger, app, chosen, messages_in, failed_once
) -> None:
    failed_once(30)

    with ThreadPoolExecutor(6) as threads:
        for done in [
            threads.submit(Coordinator(ledger, app, Settings(poll_interval_s=0.5)).round)
            for _ in range(12)
        ]:
            done.result()

    assert sorted(retries_sent(messages_in(chosen.queue_of()))) == sorted(
        f"s{i}" for i in range(30)
    )


def test_a_run_that_has_ended_is_looked_at_no_more(ledger, app, chosen, failed_once) -> None:
    ended, going_on = failed_once(1), failed_once(1)
    ledger.cancel(ended, "")
    ledger.client.sadd(f"{ledger.prefix}:active", "never-started")

    Coordinator(ledger, app, Settings(poll_interval_s=0.5)).round()

    assert ledger.active_runs() == [going_on]


def test_a_coordinator_is_there_while_it_serves_and_outlives_a_round_that_fails(
    ledger, app, chosen, messages_in, failed_once, wait_until, caplog: pytest.LogCaptureFixture
) -> None:
    active = f"{ledger.prefix}:active"
    ledger.client.set(active, "no set")
    coordinator, stopped = (
        Coordinator(ledger, app, Settings(poll_interval_s=0.005)),
        threading.Event(),
    )
    serving = threading.Thread(target=coordinator.serve, args=(stopped,))

    with caplog.at_level(logging.ERROR):
        serving.start()
        try:
            wait_until(lambda: "a duty fails (active runs are visited)" in caplog.text)
            assert present_coordinators(ledger.client, ledger.prefix) == [coordinator.name]
            ledger.client.delete(active)
            failed_once(1)
            wait_until(lambda: retries_sent(messages_in(chosen.queue_of())) == ["s0"])
        finally:
            stopped.set()
            serving.join(10)

    assert not serving.is_alive()
    assert present_coordinators(ledger.client, ledger.prefix) == []


def test_a_run_that_cannot_be_tended_holds_up_no_other(
    ledger, app, chosen, messages_in, failed_once, caplog: pytest.LogCaptureFixture
) -> None:
    broken, other = sorted((failed_once(1), failed_once(1)))
    ledger.client.delete(ledger.key(broken, "due"))
    ledger.client.set(ledger.key(broken, "due"), "no sorted set")

    with caplog.at_level(logging.ERROR):
        Coordinator(ledger, app, Settings(poll_interval_s=0.5)).round()

    assert f"run {broken} cannot be checked" in caplog.text
    sent = [message for message in messages_in(chosen.queue_of()) if message.kwargs["attempt"] == 2]
    assert [message.kwargs["run_id"] for message in sent] == [other]
