"""Queues as they lie in Redis."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Collection, Iterator
from typing import cast

import redis

from orchestrator.attempt_id import AttemptId
from orchestrator.ledger.entries import PRIORITY_LEVELS

_SEPARATOR = "\x06\x16"
_PAGE = 500


def list_key(queue: str, level: int) -> str:
    """Return the Redis list of a queue's messages of one level (kombu 5.7,
    `Channel._q_for_pri`)."""
    return queue if level == 0 else f"{queue}{_SEPARATOR}{level}"


def queue_keys(queue: str) -> list[str]:
    """Return the Redis lists that make up a queue, first taken first."""
    return [list_key(queue, level) for level in PRIORITY_LEVELS]


def queue_length(client: redis.Redis, queue: str) -> int:
    """Return how many messages wait in a queue."""
    with client.pipeline(transaction=False) as pipe:
        for key in queue_keys(queue):
            pipe.llen(key)
        return sum(cast(list[int], pipe.execute()))


def attempt_in(message: str) -> AttemptId | None:
    """Return the attempt that a message in a queue is for; None for one that is not of ours."""
    try:
        _, fields, _ = json.loads(base64.b64decode(json.loads(message)["body"]))
        attempt = AttemptId(fields["run_id"], fields["step"], fields["attempt"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    texts = (attempt.run_id, attempt.step)
    is_ours = type(attempt.attempt) is int and all(
        isinstance(text, str) and text.isprintable() for text in texts
    )
    return attempt if is_ours else None


def entries(client: redis.Redis, key: str, begin: int, end: int) -> list[str]:
    """Return entries of a list as LRANGE does. Bytes of somebody else's that are not UTF-8 are
    replaced."""
    raw = cast(list[bytes], client.execute_command("LRANGE", key, begin, end, NEVER_DECODE=True))  # type: ignore[no-untyped-call]
    return [entry.decode("utf-8", "replace") for entry in raw]


def messages_ahead(client: redis.Redis, queue: str, level: int, attempt: AttemptId) -> int | None:
    """Return how many messages of a queue are taken before the one for an attempt; None if it is
    not there."""
    before = 0
    for other in PRIORITY_LEVELS:
        if other < level:
            before += client.llen(list_key(queue, other))
    # its headers name run and step: few messages of a long queue need to be parsed
    said = max(re.findall("[A-Za-z0-9_]*", attempt.step), key=len)
    for place, message in enumerate(_from_the_head(client, list_key(queue, level))):
        if attempt.run_id in message and said in message and attempt_in(message) == attempt:
            return before + place
    return None


def lying_in(
    client: redis.Redis, queue: str, level: int, wanted: Collection[AttemptId]
) -> set[AttemptId]:
    """Return those of the attempts that have a message in a list of a queue, wherever in it."""
    key, runs, found, begin = (
        list_key(queue, level),
        {attempt.run_id for attempt in wanted},
        set[AttemptId](),
        0,
    )
    # From the end where messages come in: what is taken from the other end meanwhile lets us skip
    # none.
    while page := entries(client, key, begin, begin + _PAGE - 1):
        found |= {
            attempt
            for text in page
            if any(run_id in text for run_id in runs) and (attempt := attempt_in(text))
        }
        begin += len(page)
    return found & set(wanted)


def _from_the_head(client: redis.Redis, key: str) -> Iterator[str]:
    """Return the messages of a list, the one that is taken next coming first."""
    seen = 0
    while page := entries(client, key, -seen - _PAGE, -seen - 1):
        yield from reversed(page)
        seen += len(page)
        if len(page) < _PAGE:
            return
