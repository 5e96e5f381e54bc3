"""Queues as they lie in Redis."""

from __future__ import annotations

from typing import cast

import redis

_PRIORITY_STEPS = (0, 3, 6, 9)  # kombu's default: one list for each, the first without a suffix
_SEPARATOR = "\x06\x16"


def queue_keys(queue: str) -> list[str]:
    """Give the Redis lists that make up a queue, first taken first (kombu 5.7, `Channel._q_for_pri`)."""
    return [queue if step == 0 else f"{queue}{_SEPARATOR}{step}" for step in _PRIORITY_STEPS]


def queue_length(client: redis.Redis, queue: str) -> int:
    """Give how many messages wait in a queue."""
    with client.pipeline(transaction=False) as pipe:
        for key in queue_keys(queue):
            pipe.llen(key)
        return sum(cast(list[int], pipe.execute()))
