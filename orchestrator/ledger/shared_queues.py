"""Queues of ours of which somebody else takes messages, as coordinators have found.

`{prefix}:shared:<queue>` is a string that lives for KEPT_S: JSON of its readers and when they were
found.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import redis

KEPT_S = 86_400  # after so long it is looked for, and reported, again


@dataclass(frozen=True, slots=True)
class SharedQueue:
    """A queue and its other reader."""

    queue: str
    reader: str
    found_at: float


def note_shared(client: redis.Redis, prefix: str, shared: SharedQueue) -> bool:
    """Note who else reads a queue. Return False if that is known already: somebody else has
    reported people."""
    text = json.dumps({"reader": shared.reader, "at": shared.found_at})
    return bool(client.set(_key(prefix, shared.queue), text, nx=True, ex=KEPT_S))


def is_noted(client: redis.Redis, prefix: str, queue: str) -> bool:
    return bool(client.exists(_key(prefix, queue)))


def shared_queues(client: redis.Redis, prefix: str, queues: Iterable[str]) -> list[SharedQueue]:
    """Return what is known of these queues."""
    names = list(queues)
    texts = (
        cast(list[str | None], client.mget([_key(prefix, queue) for queue in names]))
        if names
        else []
    )
    found = []
    for queue, text in zip(names, texts, strict=True):
        if text:
            said = json.loads(text)
            found.append(SharedQueue(queue, str(said["reader"]), float(said["at"])))
    return found


def _key(prefix: str, queue: str) -> str:
    return f"{prefix}:shared:{queue}"
