"""Whether this worker can do steps at all: after a fault of its host it takes none until its own
check passes again.

A child meets the fault and puts its attempt back; the main process learns it from the child's
answer, stops reading its queues, gives back what nobody has begun, and looks every CHECK_S seconds
whether the store can be used again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from celery import bootsteps
from celery.signals import worker_shutdown
from celery.utils.log import get_logger

from orchestrator.worker.celery_inside.requests import give_back
from orchestrator.worker.main.host_state import host_state
from orchestrator.worker.process import current_process

logger = get_logger(__name__)

CHECK_S = 1.0


class Health(bootsteps.StartStopStep):  # type: ignore[misc]
    """Pauses the worker while its host is not fit for steps."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, **options: Any) -> None:
        self._over, self._has_news = threading.Event(), threading.Event()
        super().__init__(parent, **options)

    def start(self, parent: Any) -> None:
        worker_shutdown.connect(self._end, weak=False)
        host_state.listen(lambda: self._on_change(parent))
        threading.Thread(target=self._watch, args=(parent,), name="health", daemon=True).start()

    def stop(self, parent: Any) -> None:
        self._end()

    def _end(self, **_: Any) -> None:
        self._over.set()
        self._has_news.set()

    def _on_change(self, parent: Any) -> None:
        self._has_news.set()
        if host_state.fault:
            logger.error(
                "this worker takes no steps until its check passes again: %s", host_state.fault
            )
            act: Callable[[Any], None] = _pause
        else:
            logger.warning("this worker takes steps again")
            act = _go_on
        consumer = parent.consumer
        if host_state.fault and threading.current_thread() is threading.main_thread():
            act(consumer)  # at once: the next message may be there already
        else:
            consumer.call_soon(act, consumer)

    def _watch(self, parent: Any) -> None:
        store = current_process(parent.app).store
        while not self._over.is_set():
            self._has_news.wait(CHECK_S if host_state.fault else None)
            self._has_news.clear()
            if host_state.fault and not self._over.wait(CHECK_S):
                host_state.check(store)


def _pause(consumer: Any) -> None:
    """Stop reading the queues, and give back what no child has begun with."""
    queues = tuple(consumer.app.amqp.queues.consume_from)
    host_state.paused_queues = tuple(dict.fromkeys((*host_state.paused_queues, *queues)))
    for queue in queues:
        with suppress(AttributeError):
            # there is no connection just now; it will not be read after the next one is made
            consumer.cancel_task_queue(queue)
    try:
        give_back(consumer.app)
    except Exception as error:
        logger.warning("messages that were not begun could not be given back yet: %s", error)


def _go_on(consumer: Any) -> None:
    for queue in host_state.paused_queues:
        with suppress(AttributeError):  # as above: it is read after the next connection is made
            consumer.add_task_queue(queue)
    host_state.paused_queues = ()
