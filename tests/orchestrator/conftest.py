"""A Celery app with queues of its own, and the messages that lie in them."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import redis
from celery import Celery

from orchestrator.ledger.ledger import Ledger
from orchestrator.messages.app import create_app
from orchestrator.messages.queues import queue_keys
from orchestrator.settings.model import Settings
from orchestrator.settings.pools import PoolSettings


@dataclass(frozen=True)
class Message:
    size_bytes: int
    headers: dict[str, Any]
    args: list[Any]
    kwargs: dict[str, Any]
    embed: dict[str, Any]


@pytest.fixture
def chosen(ledger: Ledger) -> Settings:
    queues = {
        "cpu": PoolSettings(queue=f"{ledger.prefix}-cpu"),
        "gpu": PoolSettings(queue=f"{ledger.prefix}-gpu"),
    }
    return Settings(pools=queues)


@pytest.fixture
def app(chosen: Settings, shared_redis_url: str) -> Iterator[Celery]:
    made = create_app(chosen, shared_redis_url)
    yield made
    made.close()


@pytest.fixture
def messages_in(redis_client: redis.Redis) -> Callable[[str], list[Message]]:
    """Return the messages of a queue, the one that is taken first coming first."""

    def read(queue: str) -> list[Message]:
        found = []
        for key in queue_keys(queue):
            for raw in reversed(redis_client.lrange(key, 0, -1)):
                envelope = json.loads(raw)
                args, kwargs, embed = json.loads(base64.b64decode(envelope["body"]))
                found.append(Message(len(raw.encode()), envelope["headers"], args, kwargs, embed))
        return found

    return read
