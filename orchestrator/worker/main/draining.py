"""A worker that was told to end: it waits for its running steps, and hands over those that take too
long.

The first signal lets steps end for `drain_grace_s` and lets them know (`context.should_stop`); from
then on Celery takes no more messages. At the end of the grace, at a second signal, or at SIGQUIT,
what still runs is stopped and given back to the ledger, so that another worker goes on with it at
once.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from celery import bootsteps
from celery.signals import worker_shutdown, worker_shutting_down
from celery.utils.log import get_logger

from orchestrator.settings.sources import current_settings
from orchestrator.worker.celery_inside.pool import listen_to_all
from orchestrator.worker.interruption import note_draining
from orchestrator.worker.main.running import HANDED_OVER, running
from orchestrator.worker.main.stopping import stop_soon
from orchestrator.worker.process import pool_type_of
from orchestrator.worker.strays import kill_strays

logger = get_logger(__name__)

LOOK_S = 0.05
END_LIMIT_S = 30.0


class Draining(bootsteps.StartStopStep):  # type: ignore[misc]
    """Listens for the order to end."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, **options: Any) -> None:
        # Plain values, not events: one handler may interrupt another one in the middle of taking an
        # event's lock.
        self._orders, self._is_hurried = 0, False
        self._has_ended = threading.Event()
        self._hear: Callable[[], None] = lambda: None
        super().__init__(parent, **options)

    def start(self, parent: Any) -> None:
        listen_to_all(parent.pool)
        main_pid = os.getpid()
        is_main_thread = threading.current_thread() is threading.main_thread()

        def hurry(*_: Any) -> None:
            # In place of Celery's cold shutdown, which sends SIGTERM to the children and then waits
            # for them itself.
            if os.getpid() == main_pid:
                self._is_hurried = True
                os.kill(main_pid, signal.SIGTERM)

        def hear(how: str = "", **_: Any) -> None:
            self._orders += 1
            is_first = self._orders == 1
            if how == "Cold" or not is_first:
                self._is_hurried = True
            if is_main_thread:
                signal.signal(signal.SIGINT, hurry)
            if is_first:
                note_draining()
                # No daemon: the interpreter waits for it, so what is handed over is handed over
                # whole.
                threading.Thread(target=self._drain, args=(parent,), name="drain").start()

        def end(**_: Any) -> None:
            self._has_ended.set()

        self._hear = hear
        worker_shutting_down.connect(hear, weak=False)
        worker_shutdown.connect(end, weak=False)
        if is_main_thread:
            signal.signal(signal.SIGQUIT, hurry)

    def stop(self, parent: Any) -> None:
        """Begin to drain, if no signal has said so: somebody ends the worker from afar, as Flower
        can."""
        if not self._orders:
            self._hear()

    terminate = stop

    def _is_over(self) -> bool:
        """Whether the worker has waited for all its steps, or its main thread is at its end for
        another reason."""
        return self._has_ended.is_set() or not threading.main_thread().is_alive()

    def _drain(self, parent: Any) -> None:
        is_solo = pool_type_of(parent) == "solo"
        limit = time.monotonic() + current_settings().drain_grace_s
        left = list(running)
        if left:
            logger.warning(
                "waiting for %d running steps; a second signal hands them over", len(left)
            )
        # Not only while something runs: a child may have begun with a step of which this process
        # has not heard yet.
        while not self._is_over() and not self._is_hurried and time.monotonic() < limit:
            time.sleep(LOOK_S)
        began = time.monotonic()
        # Until Celery takes no more messages this worker would itself take the steps that it hands
        # over.
        while (
            parent.consumer.blueprint.state != bootsteps.TERMINATE
            and time.monotonic() < began + END_LIMIT_S
        ):
            if is_solo and list(running):
                break  # it takes none while its only thread runs a step
            time.sleep(LOOK_S)
        began = time.monotonic()
        while not self._is_over() and time.monotonic() < began + END_LIMIT_S:
            left = list(running)
            threads = [
                thread
                for attempt in left
                if (thread := stop_soon(parent.app, attempt, HANDED_OVER))
            ]
            for thread in threads:
                thread.join(END_LIMIT_S)
            if any(attempt.pid == os.getpid() for attempt in left):
                logger.warning(
                    "%d steps were handed over; the threads that run them end with this process",
                    len(left),
                )
                kill_strays()
                os._exit(0)
            time.sleep(LOOK_S)
