"""What a run finds around it: who serves its pools, and which of them cannot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.presence import WorkerCard, present_coordinators, present_workers
from orchestrator.ledger.states import StepState
from orchestrator.record.run import StepRecord

RUNS_LOOKED_AT = 200  # for what keeps the workers busy


@dataclass(frozen=True)
class Surroundings:
    """What the steps of a run find around them. `busy` says how many steps each worker runs, of any
    run."""

    now_us: int
    workers: tuple[WorkerCard, ...]
    coordinators: tuple[str, ...]
    busy: Mapping[str, int]

    def hindered(self, queue: str) -> list[WorkerCard]:
        """Return the workers that would read a queue, but take no steps because of a fault of their
        host."""
        return [card for card in self.workers if queue in card.paused_queues]

    def serving(self, queue: str) -> list[WorkerCard]:
        """Return the workers that read a queue."""
        return [card for card in self.workers if queue in card.queues]


def look_around(ledger: Ledger, run_id: str) -> Surroundings:
    """Return who works for a run at this moment."""
    client, prefix = ledger.client, ledger.prefix
    busy: Counter[str] = Counter()
    for active in ledger.active_runs()[:RUNS_LOOKED_AT]:
        busy.update(attempt.worker for attempt in ledger.leased(active))
    return Surroundings(
        ledger.now_us(),
        tuple(present_workers(client, prefix)),
        tuple(present_coordinators(client, prefix, run_id)),
        busy,
    )


@dataclass(frozen=True, slots=True)
class Unserved:
    """Steps that are queued for a pool that no worker serves at present. `hindrance` says why one
    that would serve it takes no steps; "" if there is none."""

    pool: str
    steps: tuple[str, ...]
    hindrance: str = ""


def unserved_steps(ledger: Ledger, steps: Mapping[str, StepRecord]) -> list[Unserved]:
    """Return the pools that no worker serves at present though steps are queued for them, by
    queue."""
    queued: dict[str, list[str]] = {}
    for name, step in steps.items():
        if step.state is StepState.QUEUED:
            queued.setdefault(step.queue, []).append(name)
    if not queued:
        return []
    cards = present_workers(ledger.client, ledger.prefix)
    served = {queue for card in cards for queue in card.queues}
    hindered = {
        queue: hindrance_text(card) for card in reversed(cards) for queue in card.paused_queues
    }
    return [
        Unserved(steps[names[0]].pool, tuple(names), hindered.get(queue, ""))
        for queue, names in sorted(queued.items())
        if queue not in served
    ]


def hindrance_text(card: WorkerCard) -> str:
    """Say that a worker takes no steps because of a fault of its host."""
    return f"worker {card.worker} takes no steps until its own check passes: {card.fault}"
