"""The Celery app of the plain side's worker, on the server and the queue that the worker's settings
name."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

from celery.signals import worker_init
from plain_celery import create_plain_app

from orchestrator.redis_url import celery_broker_url
from orchestrator.settings.sources import current_settings

app = create_plain_app(
    celery_broker_url(current_settings().redis_url or ""), current_settings().queue_of()
)


@worker_init.connect
def end_with_parent(**_: Any) -> None:
    """End this worker when the benchmark is killed, as the orchestrator's own worker does."""
    parent = current_settings().parent_pid

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        # Not SIGTERM: the server is gone too, and a warm shutdown would wait for it. The session is
        # the worker's own.
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
