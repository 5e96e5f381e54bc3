"""What is held for each step around the user's code, so that it finds the process as if it were the
first one there."""

from __future__ import annotations

import logging
import sys
import threading
from typing import Any

from orchestrator.attempt_context import StopRequested
from orchestrator.attempt_id import AttemptId
from orchestrator.worker import interruption
from orchestrator.worker.child.process_state import state_of_process
from orchestrator.worker.memory import is_limit_exceeded, limit_memory
from orchestrator.worker.renewal import note_threads, renew_if_needed

_logger = logging.getLogger(__name__)


class process_held:  # noqa: N801 (used as a function; generators cost three times as much, and this is in every step's way)
    """Put back afterwards what a step has changed in its process, or let the process be replaced.

    In a thread that is not the main one only what belongs to the thread is held; only prefork
    children are replaced.
    """

    __slots__ = ("_decimal", "_is_main", "_threads", "_what")

    def __init__(self, attempt: AttemptId) -> None:
        self._what = f"step {attempt.step} of run {attempt.run_id}"

    def __enter__(self) -> None:
        self._is_main = threading.current_thread() is threading.main_thread()
        decimal = sys.modules.get("decimal")
        self._decimal: Any = decimal.getcontext().copy() if decimal else None
        if self._is_main:
            self._threads = note_threads()
            state_of_process(is_prefork=interruption.is_prefork_child()).begin()

    def __exit__(self, *raised: object) -> None:
        is_stopped = is_limit_exceeded()
        try:
            limit_memory(None)  # what is done after the step is ours
            if decimal := sys.modules.get("decimal"):
                decimal.setcontext(self._decimal or decimal.DefaultContext.copy())
            if self._is_main:
                is_prefork = interruption.is_prefork_child()
                faults = state_of_process(is_prefork=is_prefork).end()
                if is_prefork:
                    renew_if_needed(self._threads, faults, self._what)
        except Exception:
            _logger.exception(
                "what %s has changed in its process could not be put back", self._what
            )
        if is_stopped:
            raise StopRequested  # anew: the step may have caught it, and returned a value
