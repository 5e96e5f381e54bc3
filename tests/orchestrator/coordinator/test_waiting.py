"""A step that waits for a pool that nobody serves is told, not silently stuck."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.coordinator.waiting import unserved_steps
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.presence import WorkerCard, announce_worker, withdraw_worker
from orchestrator.ledger.record import StepRecord
from orchestrator.ledger.states import StepState

CARD = WorkerCard("w", ("cpu", "cuda"), 2, "prefork", "host", 1, "beef")


@pytest.fixture
def steps() -> dict[str, StepRecord]:
    queued = StepState.QUEUED
    return {
        "a": StepRecord(queued, pool="gpu", queue="cuda"),
        "b": StepRecord(queued, pool="cpu", queue="cpu"),
        "c": StepRecord(queued, pool="gpu", queue="cuda"),
        "later": StepRecord(StepState.WAITING, pool="io", queue="io"),
    }


def test_pools_without_workers_are_named_with_the_steps_that_wait(ledger: Ledger, steps) -> None:
    assert unserved_steps(ledger, steps) == {"cpu": ["b"], "gpu": ["a", "c"]}

    announce_worker(ledger.client, ledger.prefix, replace(CARD, queues=("cpu",)))
    assert unserved_steps(ledger, steps) == {"gpu": ["a", "c"]}

    announce_worker(ledger.client, ledger.prefix, CARD)
    assert unserved_steps(ledger, steps) == {}

    withdraw_worker(ledger.client, ledger.prefix, CARD.worker)
    assert unserved_steps(ledger, steps) == {"cpu": ["b"], "gpu": ["a", "c"]}


def test_what_is_not_queued_waits_for_no_worker(ledger: Ledger, steps) -> None:
    assert unserved_steps(ledger, {"later": steps["later"]}) == {}
