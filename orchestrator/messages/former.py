"""Messages in the queues of former versions, in which a pool's queue bore the pool's name alone.

They go to the queues of today, ours only: the name may well be another application's queue by now,
or all along.
"""

from __future__ import annotations

from collections.abc import Iterator

import redis

from orchestrator.ledger.entries import PRIORITY_LEVELS
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.values import RunUnknown
from orchestrator.messages.queues import attempt_in, entries, list_key
from orchestrator.settings.model import Settings

PAGE = 500
MOST = 100_000  # looked at in one list; what lies behind is found as lost, and sent again


def take_over_former_queues(ledger: Ledger, settings: Settings) -> int:
    """Move the messages of this ledger's runs from the queues of former versions; return how many.

    A message is put into its new list before it leaves the old one: it may be there twice, which is
    harmless, and is never nowhere. Any number may do this at once.
    """
    moved = 0
    for former, queue in settings.former_queues().items():
        for level in PRIORITY_LEVELS:
            source, target = list_key(former, level), list_key(settings.list_of(queue), level)
            for message in list(_ours(ledger, source)):
                ledger.client.lpush(target, message)
                ledger.client.lrem(source, -1, message)
                moved += 1
    return moved


def _ours(ledger: Ledger, key: str) -> Iterator[str]:
    """Return the messages of a list that are for runs of this ledger, the one that is taken first
    coming first."""
    known: dict[str, bool] = {}
    for begin in range(0, MOST, PAGE):
        try:
            page = entries(ledger.client, key, -begin - PAGE, -begin - 1)
        except redis.ResponseError:  # another application's key, which is not a list
            return
        for message in reversed(page):
            named = attempt_in(message)
            if named is None:
                continue
            if named.run_id not in known:
                known[named.run_id] = _is_known(ledger, named.run_id)
            if known[named.run_id]:
                yield message
        if len(page) < PAGE:
            return


def _is_known(ledger: Ledger, run_id: str) -> bool:
    try:
        ledger.run_fields(run_id)
    except RunUnknown:
        return False
    return True
