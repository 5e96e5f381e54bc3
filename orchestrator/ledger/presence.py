"""Presence: workers and coordinators, by their signs of life in Redis.

`{prefix}:workers` and `{prefix}:coordinators` are sorted sets: name -> until when (seconds since
the epoch, by the server's clock) the last sign counts. `{prefix}:worker:<name>` is the worker's
card as JSON, `{prefix}:coordinator:<name>` that of a coordinator; both go by themselves when they
are not renewed. "name run" stands among the coordinators for one who works for that run alone, as
`orchestrator run` does.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
from dataclasses import asdict, dataclass, fields
from typing import cast

import redis

from orchestrator.errors import OlderVersionThere
from orchestrator.ledger.entries import FORMAT
from orchestrator.wording import listed

SIGN_OF_LIFE_S = 2.0
COUNTS_FOR_S = 8.0


@dataclass(frozen=True, slots=True)
class WorkerCard:
    """A worker process as it announces itself. `slots` are the steps it runs at a time;
    `incarnation` tells it from one of the same name before a restart. One that drains reads no
    queues any more; one whose host has a `fault` reads none until its own check passes again, and
    names those that it read. `python` is its version, as "3.11".
    """

    worker: str
    queues: tuple[str, ...]
    slots: int
    pool_type: str
    host: str
    pid: int
    incarnation: str = ""  # of a worker of an older version: not known
    fault: str = ""
    paused_queues: tuple[str, ...] = ()
    python: str = ""
    twin: str = ""  # another worker that bears the same name, as "process 7 of host h"
    format: int = FORMAT  # of runs, which it knows; 0 of a version that did not say so


@dataclass(frozen=True, slots=True)
class CoordinatorCard:
    """A coordinator as it announces itself."""

    name: str
    host: str
    pid: int
    python: str
    format: int = FORMAT


def announce_worker(client: redis.Redis, prefix: str, card: WorkerCard) -> WorkerCard | None:
    """Count the worker as there for the next COUNTS_FOR_S seconds. Returns the card that was there
    before."""
    until = _now(client) + COUNTS_FOR_S
    with client.pipeline(transaction=False) as pipe:
        pipe.get(f"{prefix}:worker:{card.worker}")
        pipe.set(f"{prefix}:worker:{card.worker}", json.dumps(asdict(card)), ex=round(COUNTS_FOR_S))
        pipe.zadd(f"{prefix}:workers", {card.worker: until})
        before = cast(str | None, pipe.execute()[0])
    return _card(before) if before else None


def claim_name(client: redis.Redis, prefix: str, card: WorkerCard) -> WorkerCard | None:
    """Take a worker's name before it is announced, and return None; or return the card of who bears
    it now."""
    key = f"{prefix}:worker:{card.worker}"
    if client.set(key, json.dumps(asdict(card)), nx=True, ex=round(COUNTS_FOR_S)):
        return None
    text = cast(str | None, client.get(key))
    return _card(text) if text else claim_name(client, prefix, card)


def withdraw_worker(client: redis.Redis, prefix: str, worker: str) -> None:
    """Count the worker as gone from now on."""
    client.zrem(f"{prefix}:workers", worker)
    client.delete(f"{prefix}:worker:{worker}")


def present_workers(client: redis.Redis, prefix: str) -> list[WorkerCard]:
    """Return the cards of the workers that are there, by name."""
    _drop_absent(client, f"{prefix}:workers")
    names = cast(list[str], client.zrange(f"{prefix}:workers", 0, -1))
    texts = (
        cast(list[str | None], client.mget([f"{prefix}:worker:{name}" for name in names]))
        if names
        else []
    )
    cards = [card for text in texts if text and (card := _card(text))]
    return sorted(cards, key=lambda card: card.worker)


def last_sign_of_life(
    client: redis.Redis, prefix: str, worker: str
) -> tuple[float, WorkerCard] | None:
    """Return when a worker last gave a sign of life (seconds since the epoch), with its card; None
    if that is long ago or never was."""
    until = client.zscore(f"{prefix}:workers", worker)
    text = cast(str | None, client.get(f"{prefix}:worker:{worker}"))
    card = _card(text) if text else None
    return None if until is None or card is None else (until - COUNTS_FOR_S, card)


def _card(text: str) -> WorkerCard | None:
    """Return the card that a worker, perhaps of another version, has written; None if it is not
    one."""
    try:
        said = json.loads(text)
        known = {field.name: said[field.name] for field in fields(WorkerCard) if field.name in said}
        lists: dict[str, tuple[str, ...]] = {
            name: tuple(map(str, known[name]))
            for name in ("queues", "paused_queues")
            if name in known
        }
        return WorkerCard(**{"format": 0, **known, **lists, "slots": int(known["slots"])})
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def own_card() -> CoordinatorCard:
    """Return a card of this process, with a name that no other one has."""
    host, python = socket.gethostname(), f"{sys.version_info.major}.{sys.version_info.minor}"
    return CoordinatorCard(
        f"{host}-{os.getpid()}-{secrets.token_hex(2)}", host, os.getpid(), python
    )


def refuse_older(client: redis.Redis, prefix: str) -> None:
    """Refuse to work beside workers and coordinators of version 0.1, which know no format. Raises
    OlderVersionThere."""
    older = [f"worker {card.worker}" for card in present_workers(client, prefix) if not card.format]
    older += [
        f"coordinator {card.name}" for card in coordinator_cards(client, prefix) if not card.format
    ]
    if older:
        raise OlderVersionThere(
            f"{listed(older, 5)} of version 0.1 {'is' if len(older) == 1 else 'are'} still there,"
            " and cannot work beside this version. Let the active runs end, stop all workers and"
            " coordinators, and then start this one"
        )


def announce_coordinator(
    client: redis.Redis, prefix: str, card: CoordinatorCard, run_id: str = ""
) -> None:
    """Count a coordinator as there for the next COUNTS_FOR_S seconds; with `run_id` one who follows
    that run alone."""
    until = _now(client) + COUNTS_FOR_S
    with client.pipeline(transaction=False) as pipe:
        pipe.zadd(f"{prefix}:coordinators", {_member(card, run_id): until})
        if not run_id:
            pipe.set(
                f"{prefix}:coordinator:{card.name}",
                json.dumps(asdict(card)),
                ex=round(COUNTS_FOR_S),
            )
        pipe.execute()


def withdraw_coordinator(
    client: redis.Redis, prefix: str, card: CoordinatorCard, run_id: str = ""
) -> None:
    """Count a coordinator as gone from now on."""
    client.zrem(f"{prefix}:coordinators", _member(card, run_id))
    client.delete(f"{prefix}:coordinator:{card.name}")


def _member(card: CoordinatorCard, run_id: str) -> str:
    return f"{card.name} {run_id}" if run_id else card.name


def coordinator_cards(client: redis.Redis, prefix: str) -> list[CoordinatorCard]:
    """Return the cards of the coordinators that are there for all runs."""
    keys = [f"{prefix}:coordinator:{name}" for name in present_coordinators(client, prefix)]
    texts = cast(list[str | None], client.mget(keys)) if keys else []
    known = {field.name for field in fields(CoordinatorCard)}
    said = [json.loads(text) for text in texts if text]
    return [
        CoordinatorCard(**{"format": 0, **{name: card[name] for name in known if name in card}})
        for card in said
    ]


def present_coordinators(client: redis.Redis, prefix: str, run_id: str = "") -> list[str]:
    """Return the names of the coordinators that are there; with `run_id` also of those who follow
    that run alone."""
    _drop_absent(client, f"{prefix}:coordinators")
    members = cast(list[str], client.zrange(f"{prefix}:coordinators", 0, -1))
    return [
        name
        for name, _, followed in (member.partition(" ") for member in members)
        if followed in ("", run_id)
    ]


def _drop_absent(client: redis.Redis, key: str) -> None:
    """Strike those whose last sign counts no more, and signs by a clock that was put back since:
    who lives gives one within SIGN_OF_LIFE_S."""
    now = _now(client)
    with client.pipeline(transaction=False) as pipe:
        pipe.zremrangebyscore(key, "-inf", f"({now}")
        pipe.zremrangebyscore(key, f"({now + COUNTS_FOR_S + SIGN_OF_LIFE_S}", "+inf")
        pipe.execute()


def _now(client: redis.Redis) -> float:
    seconds, microseconds = client.time()
    return seconds + microseconds / 1e6
