"""Keeps what a worker takes from its queues and must not run, whatever state the server is in at
that moment."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from functools import cached_property

import redis
from celery.utils.log import get_logger

from orchestrator.ledger.connection import connect
from orchestrator.ledger.set_aside import clear_the_way, foreign_key, keep_foreign, put_aside
from orchestrator.messages.reading import BrokenMessage, ForeignMessage
from orchestrator.messages.transport import Channel
from orchestrator.settings.model import Settings
from orchestrator.worker.process import broker_url

logger = get_logger(__name__)

ANSWER_LIMIT_S = 5.0
REPORTED_MAX = 1000  # kinds that are remembered as logged


@dataclass(frozen=True, slots=True)
class _Taken:
    queue: str
    list_key: str
    entry: bytes
    found: ForeignMessage | BrokenMessage
    at: float


class Keeping:
    """The entries that could not be set aside yet. What Redis does not take now is tried again at
    each sign of life."""

    def __init__(self, app_settings: Settings) -> None:
        self._waiting: deque[_Taken] = deque()
        self._lock = threading.Lock()
        self._reported: set[tuple[str, str]] = set()
        self._prefix, self._broker_prefix = app_settings.key_prefix, app_settings.broker_key_prefix

    @cached_property
    def _client(self) -> redis.Redis:
        """One that gives up soon: the worker's event loop waits for it."""
        return connect(broker_url(), retries=0, timeout_s=ANSWER_LIMIT_S)

    def __call__(
        self, queue: str, list_key: str, entry: bytes, found: ForeignMessage | BrokenMessage, /
    ) -> None:
        self._waiting.append(_Taken(queue, list_key, entry, found, time.time()))
        try:
            self.flush()
        except Exception as error:
            logger.warning("a message of queue %s cannot be set aside yet: %s", queue, error)

    def clear_the_way(self, queue: str, list_key: str, /) -> None:
        kept = clear_the_way(
            self._client, self._prefix, queue, self._broker_prefix + list_key, time.time()
        )
        if kept:
            logger.error(
                "the key %s of queue %s is not a list; it is called %s now", list_key, queue, kept
            )

    def flush(self) -> None:
        """Set aside what waits. Raise what Redis says; nothing is forgotten."""
        with self._lock:
            while self._waiting:
                self._set_aside(self._waiting[0])
                self._waiting.popleft()

    def _set_aside(self, taken: _Taken) -> None:
        prefix, queue, found = self._prefix, taken.queue, taken.found
        if isinstance(found, BrokenMessage):
            put_aside(self._client, prefix, queue, taken.entry, found.reason, taken.at)
            if self._is_new(queue, found.reason):
                logger.error(
                    "queue %s held an entry that is not a message of ours: %s. It is among the "
                    "dead ones now (orchestrator doctor); others of this kind are not logged.",
                    queue, found.reason,
                )  # fmt: skip
            return
        lists = self._broker_prefix + taken.list_key
        if not keep_foreign(self._client, prefix, queue, lists, taken.entry) and self._is_new(
            queue, found.task
        ):
            logger.warning(
                "queue %s is read by this worker, and another application sends to it: task %s "
                "from %s is not ours. Such messages are kept in the list %s (orchestrator doctor "
                "says how to return them); others of this task are not logged.",
                queue, found.task or "without a name", found.origin or "an unknown sender",
                foreign_key(prefix, queue),
            )  # fmt: skip

    def _is_new(self, queue: str, kind: str) -> bool:
        if len(self._reported) >= REPORTED_MAX:
            return False
        is_new = (queue, kind) not in self._reported
        self._reported.add((queue, kind))
        return is_new


_keeping: Keeping | None = None


def keep_what_is_not_ours(app_settings: Settings) -> None:
    """Let the consumers of this process hand what they must not run to the server's lists."""
    global _keeping
    _keeping = Keeping(app_settings)
    Channel.keeper = _keeping


def flush_kept() -> None:
    """Set aside what could not be until now. Raise what Redis says."""
    if _keeping is not None:
        _keeping.flush()
