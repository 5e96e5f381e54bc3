"""Why steps wait: queues that nobody reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.presence import WorkerCard, present_workers
from orchestrator.ledger.states import StepState
from orchestrator.record.run import StepRecord


@dataclass(frozen=True, slots=True)
class Unserved:
    """Steps that are queued for a pool that no worker serves at present. `hindrance` says why one that would serve it
    takes no steps; "" if there is none."""

    pool: str
    steps: tuple[str, ...]
    hindrance: str = ""


def unserved_steps(ledger: Ledger, steps: Mapping[str, StepRecord]) -> list[Unserved]:
    """Return the pools that no worker serves at present though steps are queued for them, by queue."""
    queued: dict[str, list[str]] = {}
    for name, step in steps.items():
        if step.state is StepState.QUEUED:
            queued.setdefault(step.queue, []).append(name)
    if not queued:
        return []
    cards = present_workers(ledger.client, ledger.prefix)
    served = {queue for card in cards for queue in card.queues}
    hindered = {queue: hindrance_text(card) for card in reversed(cards) for queue in card.paused_queues}
    return [
        Unserved(steps[names[0]].pool, tuple(names), hindered.get(queue, ""))
        for queue, names in sorted(queued.items())
        if queue not in served
    ]


def hindrance_text(card: WorkerCard) -> str:
    """Say that a worker takes no steps because of a fault of its host."""
    return f"worker {card.worker} takes no steps until its own check passes: {card.fault}"
