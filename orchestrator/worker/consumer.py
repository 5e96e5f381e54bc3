"""Celery's consumer of messages, made to bear with a server that is away: nobody delivers a message again."""

from __future__ import annotations

from functools import partial
from typing import Any

from celery.worker.consumer import Consumer

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
