"""Standard output, standard error and logging of each attempt, shipped to the ledger while it runs.

In a worker child (prefork, solo) the file descriptors themselves are captured, so that what C
libraries and subprocesses print is there too. In a pool of threads they are shared, and only what
Python prints is captured.

The descriptors lead to a file. The next attempt uses it again, unless a process that the step has
left behind still can write to it: what that writes is nobody's log. Such a file is emptied again
and again, and closed after its last writer.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol, TextIO

from orchestrator.artifacts.faults import HostFault
from orchestrator.attempt_id import AttemptId
from orchestrator.ledger.ledger import Ledger
from orchestrator.outages import Outage
from orchestrator.settings.model import Settings
from orchestrator.worker.child.log_records import capture_records, descriptor_of, stream_handlers
from orchestrator.worker.child.thread_capture import ThreadCapture
from orchestrator.worker.log_file import (
    HEAD_BYTES,
    READ_BYTES,
    empty,
    give_back,
    has_head,
    leave,
    new_file,
    opened_anew,
)
from orchestrator.worker.log_shipment import SHIP_INTERVAL_S, Shipment
from orchestrator.worker.masking import NO_MASKS, Masks
from orchestrator.worker.own_descriptors import forget, is_kept, keep

_ERRORS = (  # as Python's own standard error: no record is lost for half a surrogate pair
    "backslashreplace"
)
FILE_BYTES = 16 * 1024 * 1024  # of a noisy attempt's output kept before its head is given back


class Capture(Protocol):
    def attempt(
        self, attempt: AttemptId, token: int, masks: Masks = NO_MASKS
    ) -> AbstractContextManager[None]:
        """Capture what is printed and logged inside the block; it is in the ledger at the block's
        end, masked."""


def capture_for_process(ledger: Ledger, settings: Settings) -> Capture:
    """Return the capture that fits the pool this is called in, from the thread that runs steps."""
    if threading.current_thread() is threading.main_thread():
        return DescriptorCapture(ledger, settings.log_lines_per_attempt)
    return ThreadCapture(ledger, settings.log_lines_per_attempt)


class DescriptorCapture:
    """Captures descriptors 1 and 2 of this process in a file, for one attempt at a time."""

    def __init__(self, ledger: Ledger, limit: int) -> None:
        self._ledger = ledger
        self._limit = limit
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._shipment: Shipment | None = None
        self._shipped = self._freed = HEAD_BYTES  # of the file, from its beginning
        self._fd = self._writer = -1  # the file to read, and opened anew to write
        self._left: list[int] = []  # files of earlier attempts, to which somebody still can write
        self._has_head = True  # as long as nobody has truncated the file
        self._is_installed = False

    def _install(self) -> None:
        self._stdout, self._stderr = os.dup(1), os.dup(2)
        keep(self._stdout, self._stderr)
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(line_buffering=True)
        self._streams = sys.stdout, sys.stderr
        worker_log = open(self._stderr, "w", buffering=1, errors=_ERRORS, closefd=False)  # noqa: SIM115 (open as long as the process)
        for handler in stream_handlers():
            handler.setStream(worker_log)
        self.stream = open(2, "w", buffering=1, errors=_ERRORS, closefd=False)  # noqa: SIM115 (open as long as the process)
        capture_records(self)
        threading.Thread(target=self._ship_for_ever, name="attempt-log", daemon=True).start()
        self._is_installed = True

    @contextlib.contextmanager
    def attempt(self, attempt: AttemptId, token: int, masks: Masks = NO_MASKS) -> Iterator[None]:
        if not self._is_installed:
            self._install()
        with self._lock:
            if self._fd < 0:
                self._use_new_file()
            empty(self._fd)  # where nothing shows the writers
            self._shipment = Shipment(self._ledger, self._limit, attempt, token, masks)
            self._shipped = self._freed = HEAD_BYTES
            self._has_head = True
        os.dup2(self._writer, 1)
        os.dup2(self._writer, 2)
        self._wake.set()
        try:
            yield
        finally:
            for stream in (sys.stdout, sys.stderr, *self._streams):
                with contextlib.suppress(ValueError, OSError, AttributeError):
                    # the step may have closed or replaced it
                    stream.flush()
            self._streams = sys.stdout, sys.stderr = (
                _whole(self._streams[0], 1),
                _whole(self._streams[1], 2),
            )
            os.dup2(self._stdout, 1)
            os.dup2(self._stderr, 2)
            self._wake.clear()
            with self._lock:
                try:
                    if (size := os.fstat(self._fd).st_size) != HEAD_BYTES:
                        self._ship(size, is_end=True)
                finally:
                    self._shipment = None
                    self._put_away()

    def _use_new_file(self) -> None:
        self._fd, self._writer = new_file()
        keep(self._fd, self._writer)

    def _put_away(self) -> None:
        """Empty the file for the next attempt, or leave it to those who still can write to it."""
        if _has_children():
            with contextlib.suppress(OSError):  # a file system without locks
                # lasts until the last copy is closed
                fcntl.flock(self._writer, fcntl.LOCK_EX | fcntl.LOCK_NB)
            forget(self._writer)
            os.close(self._writer)
            if _has_writers(self._fd):
                forget(self._fd)
                leave(self._fd)
                self._left.append(self._fd)
                self._fd = -1
                with contextlib.suppress(HostFault):
                    # it is met again by the next attempt, which says so
                    self._use_new_file()
                return
            self._writer = opened_anew(self._fd)
            keep(self._writer)
        empty(self._fd)

    def _ship(self, size: int, *, is_end: bool = False) -> None:
        """Ship what was in the file when it had that size: somebody may write faster than it can be
        shipped."""
        assert self._shipment is not None
        if size < self._shipped or (self._has_head and not has_head(self._fd)):
            # truncated by what the step does
            self._shipped, self._freed, self._has_head = 0, 0, False
        while data := os.pread(
            self._fd, min(READ_BYTES, max(0, size - self._shipped)), self._shipped
        ):
            self._shipped += len(data)
            self._shipment.add(data)
        if is_end:
            self._shipment.end()
            return
        self._shipment.send()
        if self._shipped - self._freed > FILE_BYTES:
            give_back(self._fd, self._freed, self._shipped, self._shipment.written)
            self._freed = self._shipped

    def is_open(self) -> bool:
        return self._shipment is not None

    def masks(self) -> Masks:
        shipment = self._shipment
        return shipment.masks if shipment else NO_MASKS

    def is_behind(self, stream: Any) -> bool:
        return descriptor_of(stream) in (1, 2)

    def watch(self) -> Callable[[str], bool]:
        size = os.fstat(self._fd).st_size
        return lambda text: text.encode(errors="replace") in os.pread(self._fd, READ_BYTES, size)

    def _ship_for_ever(self) -> None:
        pause, outage = (
            threading.Event(),
            Outage(logging.getLogger(__name__), "logs of steps cannot be shipped"),
        )
        while True:
            self._wake.wait(SHIP_INTERVAL_S if self._left else None)
            pause.wait(SHIP_INTERVAL_S)
            with self._lock:
                if self._shipment and not is_kept(self._fd):
                    # the step has closed it, so this process ends after it, and its main process
                    # ships the rest
                    return
                if self._shipment and (size := os.fstat(self._fd).st_size) != self._shipped:
                    try:
                        self._ship(size)
                        outage.is_over()
                    except Exception as error:
                        outage.begins(error)
                self._left = [fd for fd in self._left if not _is_done_with(fd)]


def _has_children() -> bool:
    """Whether anything that a step has started may be left: what loses its parent becomes a child
    of this process."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _has_writers(file: int) -> bool:
    """Whether somebody has a copy of the writer, which was locked; which can be known only where
    files can be opened anew."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(file, fcntl.LOCK_UN)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _is_done_with(file: int) -> bool:
    """Close a file that nobody writes to any more; else keep what is in it from growing without
    end."""
    if _has_writers(file):
        os.ftruncate(file, 0)
        return False
    os.close(file)
    return True


def _whole(stream: TextIO, fd: int) -> TextIO:
    """Return the stream, or a new one on the descriptor if a step has closed or detached it."""
    with contextlib.suppress(ValueError):  # it is detached
        if not stream.closed:
            return stream
    return open(fd, "w", buffering=1, closefd=False)
