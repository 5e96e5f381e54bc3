"""A worker's sign of life in the ledger, sent by its main process so that user code cannot delay
it.

The solo pool has only one process: while a step runs there, the worker counts as gone after a few
seconds.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psutil
from celery import bootsteps
from celery.signals import worker_shutdown
from celery.utils.log import get_logger

from orchestrator.ledger.presence import (
    SIGN_OF_LIFE_S,
    WorkerCard,
    announce_worker,
    withdraw_worker,
)
from orchestrator.messages.former import take_over_former_queues
from orchestrator.outages import Outage
from orchestrator.settings.sources import current_settings
from orchestrator.worker.main.host_state import host_state
from orchestrator.worker.main.keeping import flush_kept
from orchestrator.worker.process import INCARNATION, current_process, pool_type_of
from orchestrator.worker.strays import has_guardian

logger = get_logger(__name__)


PARENT_LOOK_S = 0.5


class Presence(bootsteps.StartStopStep):  # type: ignore[misc]
    """Announces the worker every SIGN_OF_LIFE_S seconds, and ends a local worker whose parent has
    gone."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, **options: Any) -> None:
        self._over, self._has_news = threading.Event(), threading.Event()
        self._is_draining = False
        self._thread: threading.Thread | None = None
        super().__init__(parent, **options)

    def start(self, parent: Any) -> None:
        worker_shutdown.connect(self._end, weak=False)
        self._thread = threading.Thread(
            target=self._announce, args=(parent,), name="presence", daemon=True
        )
        self._thread.start()
        host_state.listen(self._has_news.set)
        if watched := current_settings().parent_pid:
            threading.Thread(
                target=self._end_with, args=(watched,), name="parent-watch", daemon=True
            ).start()

    def stop(self, parent: Any) -> None:
        """Say that the worker takes no more steps; it is there until the last one has ended."""
        self._is_draining = True
        self._has_news.set()

    terminate = stop

    def _end(self, **_: Any) -> None:
        self._over.set()
        self._has_news.set()
        if self._thread:
            self._thread.join(timeout=5)

    def _announce(self, parent: Any) -> None:
        process = current_process(parent.app)
        client, prefix = process.ledger.client, current_settings().key_prefix
        card = WorkerCard(
            worker=parent.hostname,
            queues=(),
            slots=parent.concurrency or 1,
            pool_type=pool_type_of(parent),
            host=socket.gethostname(),
            pid=os.getpid(),
            incarnation=INCARNATION,
            python=f"{sys.version_info.major}.{sys.version_info.minor}",
        )
        try:
            take_over_former_queues(process.ledger, current_settings())
        except Exception as error:
            logger.warning(
                "messages in the queues of a former version could not be taken over yet: %s", error
            )
        has_begun, twin = False, ""
        outage = Outage(logger, "no sign of life can be sent")
        while not self._over.is_set():
            try:
                before = announce_worker(
                    client, prefix, replace(self._now(card, parent), twin=twin)
                )
                # At the first sign it may be a predecessor's.
                is_other = (
                    has_begun and before is not None and before.incarnation not in ("", INCARNATION)
                )
                twin = f"process {before.pid} of host {before.host}" if is_other and before else ""
                has_begun = True
                flush_kept()
                outage.is_over()
            except Exception as error:
                outage.begins(error)
            self._has_news.wait(SIGN_OF_LIFE_S)
            self._has_news.clear()
        try:
            withdraw_worker(client, prefix, card.worker)
        except Exception as error:
            logger.warning("the worker could not be signed off: %s", error)

    def _now(self, card: WorkerCard, parent: Any) -> WorkerCard:
        card = replace(card, queues=queues_read_by(parent), slots=slots_of(parent))
        if self._is_draining:
            return replace(card, queues=())
        if fault := host_state.fault:
            return replace(
                card, queues=(), fault=fault, paused_queues=host_state.paused_queues or card.queues
            )
        return card

    @staticmethod
    def _end_with(watched: int) -> None:
        """Kill the whole tree at once when the parent has gone, as the parent would have: nobody
        waits for its steps.

        A thread of its own, because signs of life wait for a server that went with the parent.
        Where there is a guardian it ends the rest, and misses nothing that is started meanwhile.
        """
        while os.getppid() == watched:  # also while a shutdown waits for a step
            time.sleep(PARENT_LOOK_S)
        logger.warning(
            "the process that started this worker has gone: the worker ends with all it started"
        )
        if has_guardian():
            os.kill(os.getpid(), signal.SIGKILL)
        myself = psutil.Process()
        for process in {*myself.children(recursive=True), *_session()} - {myself}:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                process.kill()
        myself.kill()


def queues_read_by(worker: Any) -> tuple[str, ...]:
    """Return the queues that a Celery worker reads now, by their former names as well, which older
    runs have.

    Remote control adds queues and cancels some.
    """
    consumer = getattr(getattr(worker, "consumer", None), "task_consumer", None)
    # Not connected yet, or just now not: it will read these.
    queues = worker.app.amqp.queues.consume_from.values() if consumer is None else consumer.queues
    return tuple(name for queue in list(queues) for name in (queue.name, queue.alias) if name)


def slots_of(worker: Any) -> int:
    """Return how many steps a Celery worker runs at a time now: its pool grows and shrinks."""
    try:
        return int(worker.pool.num_processes)
    except (AttributeError, TypeError):  # the pool is not there yet
        return worker.concurrency or 1


def _session() -> Iterator[psutil.Process]:
    """Return the processes of the session that a local worker leads: also what a step handed over
    to init."""
    for process in psutil.process_iter():
        with contextlib.suppress(OSError):
            if os.getsid(process.pid) == os.getpid():
                yield process
