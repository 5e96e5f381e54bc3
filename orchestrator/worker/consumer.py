"""Celery's consumer of messages, made to bear with a server that is away: nobody delivers a message again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from celery.utils.log import get_logger
from celery.worker.consumer import Consumer
from redis.exceptions import RedisError

logger = get_logger(__name__)

LONGEST_PAUSE_S = 2.0


class StepConsumer(Consumer):  # type: ignore[misc]
    """Connects anew soon, and forgets no attempt that a child may have begun."""

    def ensure_connected(self, conn: Any) -> Any:
        """Try again every two seconds at most. Between two tries the main process hears nothing of its children, and
        Celery would let the pauses grow to half a minute."""
        conn.ensure_connection = partial(conn.ensure_connection, interval_max=LONGEST_PAUSE_S)
        return super().ensure_connected(conn)

    def on_close(self) -> None:
        """Drop what no child has got; keep what one has, though it has not answered yet: it begins when it can."""
        jobs = getattr(getattr(self.pool, "_pool", None), "_cache", {})
        written = {number: job for number, job in list(jobs.items()) if not job._accepted and job._write_to}
        super().on_close()
        for number, job in written.items():
            jobs.setdefault(number, job)

    def call_soon(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Let the event loop call something that a command from afar asks for; one without sense must not end it."""
        return super().call_soon(_outlived, function, *args, **kwargs)


def _outlived(function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    try:
        function(*args, **kwargs)
    except (RedisError, OSError):  # the connection's, to which the consumer attends
        raise
    except Exception as error:
        logger.error("what a remote control command asked for cannot be done: %s: %s", type(error).__name__, error)
