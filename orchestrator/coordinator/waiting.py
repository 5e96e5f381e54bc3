"""Why steps wait: queues that nobody reads."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.presence import present_workers
from orchestrator.ledger.record import StepRecord
from orchestrator.ledger.states import StepState


def unserved_steps(ledger: Ledger, steps: Mapping[str, StepRecord]) -> dict[str, list[str]]:
    """Give the pools that no worker serves at present though steps are queued for them, with those steps."""
    queued: dict[str, list[str]] = {}
    for name, step in steps.items():
        if step.state is StepState.QUEUED:
            queued.setdefault(step.queue, []).append(name)
    if not queued:
        return {}
    served = {queue for card in present_workers(ledger.client, ledger.prefix) for queue in card.queues}
    return {steps[names[0]].pool: names for queue, names in sorted(queued.items()) if queue not in served}
