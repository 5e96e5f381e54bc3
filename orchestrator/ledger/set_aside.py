"""What workers have taken from their queues and must not run: it is kept in Redis, for people to
look at.

| key | type | what |
|---|---|---|
| `{prefix}:foreign:<queue>` | list | other applications' messages, byte for byte, the oldest at its
right end; whole |
| `{prefix}:returned:<queue>` | set | digests of foreign messages that went back to the queue, so
that they do so once |
| `{prefix}:dead:<queue>` | list | the last DEAD_KEPT entries that are not good as messages, cut to
DEAD_BYTES |
| `{prefix}:dead` | hash | queue -> how many there were, and of the last one why and when |
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

import redis

DEAD_KEPT = 1000
DEAD_BYTES = 16 * 1024
RETURNED_KEPT_S = 86_400
RETURNED_MAX = 100_000

# KEYS: the list that it came from, the foreign list, the digests. ARGV: the message, its digest.
# Returns 1 when it went back to its queue, 0 when it is kept.
_KEEP_FOREIGN = f"""
if redis.call('SADD', KEYS[3], ARGV[2]) == 1 then
  if redis.call('SCARD', KEYS[3]) > {RETURNED_MAX} then redis.call('DEL', KEYS[3]) end
  redis.call('EXPIRE', KEYS[3], {RETURNED_KEPT_S})
  redis.call('LPUSH', KEYS[1], ARGV[1])
  return 1
end
redis.call('SREM', KEYS[3], ARGV[2])
redis.call('LPUSH', KEYS[2], ARGV[1])
return 0
"""


@dataclass(frozen=True, slots=True)
class SetAside:
    """How much of a queue was set aside. `last_reason` is that of the newest dead entry."""

    queue: str
    foreign: int
    dead: int
    last_reason: str = ""


def foreign_key(prefix: str, queue: str) -> str:
    return f"{prefix}:foreign:{queue}"


def dead_key(prefix: str, queue: str) -> str:
    return f"{prefix}:dead:{queue}"


def keep_foreign(client: redis.Redis, prefix: str, queue: str, list_key: str, entry: bytes) -> bool:
    """Put a message of somebody else's back, the first time, and keep it the second time. Return
    whether it went back.

    `list_key` is the list that it came from, as Redis knows it. It goes to that list's end: who
    else reads it, and waits for a message already, is served first.
    """
    digest = hashlib.sha256(entry).hexdigest()
    keys = (list_key, foreign_key(prefix, queue), f"{prefix}:returned:{queue}")
    return bool(client.eval(_KEEP_FOREIGN, len(keys), *keys, entry, digest))


def put_aside(
    client: redis.Redis, prefix: str, queue: str, entry: bytes, reason: str, at: float
) -> None:
    """Put an entry that is not a message among the dead ones of its queue, of which the last
    DEAD_KEPT stay."""
    key = dead_key(prefix, queue)
    with client.pipeline(transaction=True) as pipe:
        pipe.lpush(key, entry[:DEAD_BYTES])
        pipe.ltrim(key, 0, DEAD_KEPT - 1)
        pipe.hincrby(f"{prefix}:dead", queue, 1)
        pipe.hset(f"{prefix}:dead", f"{queue}\0last", json.dumps({"reason": reason, "at": at}))
        pipe.execute()


def clear_the_way(client: redis.Redis, prefix: str, queue: str, list_key: str, at: float) -> str:
    """Rename the key of a queue's list if it is not a list. Return its new name, else an empty
    text."""
    kind = cast(str, client.type(list_key))
    if kind in ("list", "none"):
        return ""
    number = client.hincrby(f"{prefix}:dead", f"{queue}\0keys", 1)
    kept = f"{dead_key(prefix, queue)}:{kind}:{number}"
    client.rename(list_key, kept)
    put_aside(client, prefix, queue, b"", f"its key was a {kind}; it is {kept} now", at)
    return kept


def set_aside_in(client: redis.Redis, prefix: str, queues: Iterable[str]) -> list[SetAside]:
    """Return what was set aside of these queues and of all that have dead entries; queues without
    any are left out."""
    counts = cast(Mapping[str, str], client.hgetall(f"{prefix}:dead"))
    names = dict.fromkeys([*queues, *(name for name in counts if "\0" not in name)])
    found = []
    for queue in names:
        foreign = client.llen(foreign_key(prefix, queue))
        dead = int(counts.get(queue, 0)) if client.exists(dead_key(prefix, queue)) else 0
        if foreign or dead:
            last = json.loads(counts.get(f"{queue}\0last", "{}"))
            found.append(SetAside(queue, foreign, dead, str(last.get("reason", ""))))
    return found


def returning_command(prefix: str, queue: str, list_key: str) -> str:
    """Return the redis-cli command that gives a queue its foreign messages back, in their order."""
    script = (
        "local n = 0; while redis.call('RPOPLPUSH', KEYS[1], KEYS[2]) do n = n + 1 end; return n"
    )
    return f'redis-cli EVAL "{script}" 2 {foreign_key(prefix, queue)} {list_key}'
