"""Celery's consumer of messages, made to outlast a server that is away: nobody delivers a message
again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from celery.utils.log import get_logger
from celery.worker.consumer import Consumer
from redis.exceptions import RedisError

from orchestrator.outages import Outage
from orchestrator.refusals import ServerRefuses

logger = get_logger(__name__)

LONGEST_PAUSE_S = 2.0
REFUSED_PAUSE_S = 0.5
SETTLED_S = 2.0
_celerys_logger = logging.getLogger("celery.worker.consumer.consumer")


class StepConsumer(Consumer):  # type: ignore[misc]
    """Connects anew soon, and forgets no attempt that a child may have begun."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._outage = Outage(logger, "messages cannot be taken")
        super().__init__(*args, **options)

    def ensure_connected(self, conn: Any) -> Any:
        """Try again every two seconds at most. Between two tries the main process hears nothing of
        its children, and Celery would let the pauses grow to half a minute."""
        connect = conn.ensure_connection

        def ensure_connection(_: Any, *args: Any, **options: Any) -> Any:
            return connect(lambda error, interval: self._outage.begins(error), *args, **options)

        conn.ensure_connection = partial(ensure_connection, interval_max=LONGEST_PAUSE_S)
        return super().ensure_connected(conn)

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        self._outage.begins(exc)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Say once that the connection is lost, which Celery would say at each try."""
        self._outage.begins(exc)
        level = _celerys_logger.level
        _celerys_logger.setLevel(logging.ERROR)
        try:
            super().on_connection_error_after_connected(exc)
        finally:
            _celerys_logger.setLevel(level)
        if isinstance(exc, ServerRefuses):
            time.sleep(REFUSED_PAUSE_S)  # else it connects, and is refused, many times a second

    def on_ready(self) -> None:
        super().on_ready()
        if self._outage.is_on:  # a server that refuses may let it come so far
            self.timer.call_after(SETTLED_S, self._outage.is_over)

    def on_close(self) -> None:
        """Drop what no child has got; keep what one has, though it has not answered yet: it begins
        when it can."""
        jobs = getattr(getattr(self.pool, "_pool", None), "_cache", {})
        written = {
            number: job for number, job in list(jobs.items()) if not job._accepted and job._write_to
        }
        super().on_close()
        for number, job in written.items():
            jobs.setdefault(number, job)

    def call_soon(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Let the event loop call something that a command from afar asks for; one without sense
        must not end it."""
        return super().call_soon(_outlived, function, *args, **kwargs)


def _outlived(function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    try:
        function(*args, **kwargs)
    except (RedisError, OSError):  # the connection's, to which the consumer attends
        raise
    except Exception as error:
        logger.error(
            "what a remote control command asked for cannot be done: %s: %s",
            type(error).__name__,
            error,
        )
