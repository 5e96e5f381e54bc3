"""Watching how much memory attempts hold whose limits no control group keeps; see
`worker/memory.py`."""

from __future__ import annotations

import os
import time
from typing import Any

from celery.utils.log import get_logger

from orchestrator.errors import MemoryLimitExceeded
from orchestrator.processes.memory import proportional_bytes, resident_bytes, tree_of
from orchestrator.worker.main.running import RunningAttempt, running
from orchestrator.worker.main.stopping import OUT_OF_MEMORY, stop_soon
from orchestrator.worker.memory import excess_text, limit_of, note_excess

logger = get_logger(__name__)

LOOK_S = 0.1


def watch_memory(app: Any) -> None:
    """Stop what holds more than its limit; for a thread of the main process."""
    while True:
        time.sleep(LOOK_S)
        for attempt in running:
            if (
                attempt.pid != os.getpid()
                and (limit := limit_of(attempt.pid))
                and not attempt.stop_reason
            ):
                try:
                    _look(app, attempt, limit)
                except Exception:
                    logger.exception(
                        "the memory of step %s could not be looked at", attempt.held.step
                    )


def _look(app: Any, attempt: RunningAttempt, limit: int) -> None:
    tree = [*tree_of(attempt.pid)]
    if sum(map(resident_bytes, tree)) <= limit:
        return
    held = sum(map(proportional_bytes, tree))
    with running.lock:  # else it may be another attempt's by now
        is_over = held > limit and running.is_running(attempt) and limit_of(attempt.pid) == limit
        if is_over:
            attempt.failure = MemoryLimitExceeded(excess_text(held, limit))
            note_excess(attempt.pid, limit)
    if is_over:
        stop_soon(app, attempt, OUT_OF_MEMORY)
