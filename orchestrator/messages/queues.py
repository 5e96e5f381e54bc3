"""Queues as they lie in Redis."""

from __future__ import annotations

from typing import cast

import redis

PRIORITY_LEVELS = (0, 3, 6, 9)  # kombu's default: one list for each, the first without a suffix
_SEPARATOR = "\x06\x16"


def priority_level(priority: int) -> int:
    """Give the level whose list takes messages of a priority (kombu 5.7, `Channel.priority_steps`)."""
    return max(level for level in PRIORITY_LEVELS if level <= priority)


def list_key(queue: str, level: int) -> str:
    """Give the Redis list of a queue's messages of one level (kombu 5.7, `Channel._q_for_pri`)."""
    return queue if level == 0 else f"{queue}{_SEPARATOR}{level}"


def queue_keys(queue: str) -> list[str]:
    """Give the Redis lists that make up a queue, first taken first."""
    return [list_key(queue, level) for level in PRIORITY_LEVELS]


def queue_length(client: redis.Redis, queue: str) -> int:
    """Give how many messages wait in a queue."""
    with client.pipeline(transaction=False) as pipe:
        for key in queue_keys(queue):
            pipe.llen(key)
        return sum(cast(list[int], pipe.execute()))
