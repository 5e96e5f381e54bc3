"""Celery's task events, which Flower needs, sent a few times a second instead of at every turn of
the event loop.

Sent one by one they cost a worker's main process half of what a step costs it (docs/benchmarks.md).
"""

from __future__ import annotations

from typing import Any

from celery import bootsteps

BATCH_S = 0.2
BATCH_EVENTS = 500


class EventBatches(bootsteps.StartStopStep):  # type: ignore[misc]
    """Lets events gather for BATCH_S seconds. None is left out: Flower takes names from
    task-received, slots in use from task-started."""

    requires = ("celery.worker.consumer.events:Events",)

    def start(self, parent: Any) -> None:
        dispatcher = parent.event_dispatcher
        if not parent.hub or not dispatcher:
            return  # without an event loop (threads, solo) nothing is buffered
        is_due = False

        def flush() -> None:
            nonlocal is_due
            is_due = False
            if parent.event_dispatcher:
                parent.event_dispatcher.flush()

        def flush_soon() -> None:
            nonlocal is_due
            if not is_due:
                is_due = True
                parent.hub.call_later(BATCH_S, flush)

        dispatcher.on_send_buffered = flush_soon
        dispatcher.buffer_limit = BATCH_EVENTS

    def stop(self, parent: Any) -> None:
        if parent.event_dispatcher:
            parent.event_dispatcher.flush()
