"""A worker's sign of life in the ledger, sent by its main process so that user code cannot delay it.

The solo pool has only one process: while a step runs there, the worker counts as gone after a few seconds.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from typing import Any

from celery import bootsteps
from celery.utils.log import get_logger

from orchestrator.ledger.presence import SIGN_OF_LIFE_S, WorkerCard, announce_worker, withdraw_worker
from orchestrator.settings import settings
from workers.process import current_process

logger = get_logger(__name__)


class Presence(bootsteps.StartStopStep):  # type: ignore[misc]
    """Announces the worker every SIGN_OF_LIFE_S seconds, and ends a local worker whose parent has gone."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, **options: Any) -> None:
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        super().__init__(parent, **options)

    def start(self, parent: Any) -> None:
        self._thread = threading.Thread(target=self._announce, args=(parent,), name="presence", daemon=True)
        self._thread.start()

    def stop(self, parent: Any) -> None:
        self._stopped.set()
        if self._thread:
            self._thread.join(timeout=5)
            self._thread = None

    terminate = stop

    def _announce(self, parent: Any) -> None:
        process = current_process(parent.app)
        client, prefix = process.ledger.client, settings().key_prefix
        card = WorkerCard(
            worker=parent.hostname,
            queues=tuple(parent.app.amqp.queues.consume_from),
            slots=parent.concurrency or 1,
            pool_type=str(parent.pool_cls.__module__).rpartition(".")[2].replace("thread", "threads"),
            host=socket.gethostname(),
            pid=os.getpid(),
        )
        while True:
            watched = settings().parent_pid
            if watched and os.getppid() != watched:
                logger.warning("the process that started this worker has gone: shutting down")
                os.kill(os.getpid(), signal.SIGTERM)
                watched = None
            try:
                announce_worker(client, prefix, card)
            except Exception as error:
                logger.warning("no sign of life could be sent: %s", error)
            if self._stopped.wait(SIGN_OF_LIFE_S):
                break
        try:
            withdraw_worker(client, prefix, card.worker)
        except Exception as error:
            logger.warning("the worker could not be signed off: %s", error)
