"""The attempts that run on this worker, as its main process knows them: from when a child accepts
one to its end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from orchestrator.ledger.values import OwnedAttempt
from orchestrator.worker.call_clock import call_s
from orchestrator.worker.log_file import LogOfChild

# reasons to stop one
TIMED_OUT, CANCELLED, FENCED, HANDED_OVER = (
    "timed_out",
    "cancelled",
    "fenced",
    "handed_over",
)


@dataclass(eq=False, slots=True)
class RunningAttempt:
    """One attempt. `pid` is the process that runs it: a child, or (threads, solo) the worker
    itself.

    `stop_reason` is set once it is being stopped; from then on the process that stops it records
    its end.
    """

    held: OwnedAttempt
    pid: int
    timeout_s: float
    stop_reason: str = ""
    failure: BaseException | None = None  # what to record of it, if it is stopped for its own fault
    was_killed: bool = False
    # when it was first seen that somebody has sent its child SIGTERM
    terminated_at: float | None = None
    is_fenced: bool = False  # the ledger said once that somebody took over
    ended: threading.Event = field(default_factory=threading.Event)
    log: LogOfChild | None = None  # what it writes, for when its process dies

    def time_left_s(self) -> float | None:
        """Return how much of its timeout is left; None when it has none, is being stopped, or has
        ended its call."""
        if not self.timeout_s or self.stop_reason:
            return None
        call = self.call_s()
        return None if call is None else self.timeout_s - call

    def call_s(self) -> float | None:
        """Return for how long its call has run; None once that has ended."""
        held = self.held
        return call_s(self.pid, held.id)


class Running:
    """The set of them. `lock` is held while one is signalled, so that its process cannot have gone
    on to another."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._attempts: dict[int, RunningAttempt] = {}
        self._stopping: set[RunningAttempt] = set()
        self.timeout_set = threading.Event()

    def begin(self, key: int, attempt: RunningAttempt) -> None:
        with self.lock:
            self._attempts[key] = attempt
        if attempt.timeout_s:
            self.timeout_set.set()

    def end(self, key: int) -> RunningAttempt | None:
        """Strike the attempt from the set and give it, None if it was not there (any more)."""
        with self.lock:
            attempt = self._attempts.pop(key, None)
        if attempt:
            attempt.ended.set()
        return attempt

    def forget_log(self, attempt: RunningAttempt | None) -> None:
        """Close the log of an attempt that has ended and that nobody stops. Celery keeps its
        request for a while."""
        if attempt:
            with self.lock:
                if attempt not in self._stopping:
                    attempt.log = None

    def begin_stopping(self, attempt: RunningAttempt, reason: str) -> bool:
        """Note that an attempt is being stopped; False if it is already, or has ended."""
        with self.lock:
            if attempt.stop_reason or attempt.ended.is_set():
                return False
            attempt.stop_reason = reason
            self._stopping.add(attempt)
            return True

    def give_up_stopping(self, attempt: RunningAttempt) -> None:
        """Note that an attempt could not be stopped, so that the next one that wants it to end
        may try again."""
        with self.lock:
            self._stopping.discard(attempt)
            attempt.stop_reason = ""

    def end_stopping(self, attempt: RunningAttempt) -> None:
        """Note that an attempt is gone with all that it started, and that the ledger knows."""
        with self.lock:
            self._stopping.discard(attempt)
            attempt.log = None

    def held(self) -> set[RunningAttempt]:
        """Return all whose leases this worker keeps: those that run, and those that ended while
        they were being stopped and of which something may still be left."""
        with self.lock:
            return {*self._attempts.values(), *self._stopping}

    def __iter__(self) -> Iterator[RunningAttempt]:
        return iter(list(self._attempts.values()))

    def is_running(self, attempt: RunningAttempt) -> bool:
        """Whether the attempt has not ended; certain only while `lock` is held."""
        return not attempt.ended.is_set()


running = Running()
