"""Why steps wait: pools that nobody serves."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.presence import present_workers
from orchestrator.settings import Settings


def unserved_pools(ledger: Ledger, settings: Settings, pools: Iterable[str]) -> list[str]:
    """Give those of the pools whose queue no worker reads at present, sorted."""
    asked = sorted(set(pools))
    if not asked:
        return []
    served = {queue for card in present_workers(ledger.client, ledger.prefix) for queue in card.queues}
    return [pool for pool in asked if pool not in settings.pools or settings.queue_of(pool) not in served]
