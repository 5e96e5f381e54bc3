"""A step that waits for a pool that nobody serves is told, not silently stuck."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.cli.summary import unserved_text
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.presence import WorkerCard, announce_worker, withdraw_worker
from orchestrator.ledger.states import StepState
from orchestrator.record.run import StepRecord
from orchestrator.runs.surroundings import Unserved, unserved_steps

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
    assert unserved_steps(ledger, steps) == [Unserved("cpu", ("b",)), Unserved("gpu", ("a", "c"))]

    announce_worker(ledger.client, ledger.prefix, replace(CARD, queues=("cpu",)))
    assert unserved_steps(ledger, steps) == [Unserved("gpu", ("a", "c"))]

    announce_worker(ledger.client, ledger.prefix, CARD)
    assert unserved_steps(ledger, steps) == []

    withdraw_worker(ledger.client, ledger.prefix, CARD.worker)
    assert unserved_steps(ledger, steps) == [Unserved("cpu", ("b",)), Unserved("gpu", ("a", "c"))]


def test_a_worker_that_takes_no_steps_because_of_its_store_is_attempt_instead(
    ledger: Ledger, steps
) -> None:
    paused = replace(
        CARD,
        queues=("cpu",),
        paused_queues=("cuda",),
        fault="host h cannot use the artifact store /x",
    )
    announce_worker(ledger.client, ledger.prefix, paused)

    (unserved,) = unserved_steps(ledger, steps)

    assert (
        unserved_text(unserved)
        == "waiting: worker w takes no steps until its own check passes: host h cannot use the"
        " artifact store /x (step a and 1 more)"
    )
    announce_worker(ledger.client, ledger.prefix, replace(CARD, worker="healthy"))
    assert unserved_steps(ledger, steps) == []


def test_what_is_not_queued_waits_for_no_worker(ledger: Ledger, steps) -> None:
    assert unserved_steps(ledger, {"later": steps["later"]}) == []
