"""How long the call of a step has run: the clock of `timeout`, which its worker's main process
reads.

It runs while the step's own code does: the import of its module, its function, its command. It
stands still while our parts are at work (the claim, loading inputs, saving the output, the commit),
for they may have to wait for a server or store that is away. Once the call has ended an attempt is
not timed out any more.

A prefork child writes its clock into memory that it shares with the main process: one number, so
that no reader meets half of it. In pools of threads the clocks lie in a table of the process.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
import threading
import time

from orchestrator.attempt_id import AttemptId

ENTRIES = 1 << 16
# process id, reading; a child's place is its process id, modulo the number of places
_ENTRY = struct.Struct("=qd")
_READING = struct.Struct("=d")
_READING_AT = 8
_ENDED = math.nan

_shared = mmap.mmap(-1, ENTRIES * _ENTRY.size)
_of_threads: dict[AttemptId, CallClock] = {}
_current = threading.local()
# an attempt in a thread is asked to stop before its call ends, or not at all
asking = threading.Lock()


class CallClock:
    """The clock of one attempt, in the process or thread that runs it; begins to stand, at 0 s.

    While it runs, `reading` is the monotonic time at which it would have begun without its pauses;
    while it stands, the seconds so far as a negative number; in the end, not a number.
    """

    __slots__ = ("_is_shared", "_key", "_pid", "reading")

    def __init__(self, attempt: AttemptId, *, is_shared: bool) -> None:
        self._key, self._pid, self._is_shared = attempt, os.getpid(), is_shared
        self.reading = 0.0

    def __enter__(self) -> CallClock:
        _current.clock = self
        if self._is_shared:
            _ENTRY.pack_into(_shared, _place(self._pid), self._pid, 0.0)
        else:
            _of_threads[self._key] = self
        return self

    def __exit__(self, *raised: object) -> None:
        _current.clock = None
        self._set(0.0)
        _of_threads.pop(self._key, None)

    def run(self) -> None:
        if self.reading <= 0:
            self._set(time.monotonic() + self.reading)

    def stand(self) -> None:
        if self.reading > 0:
            self._set(self.reading - time.monotonic())

    def end(self) -> None:
        """Say that the call has ended: from now on nobody times the attempt out."""
        with asking:
            self._set(_ENDED)

    @property
    def has_ended(self) -> bool:
        return math.isnan(self.reading)

    def _set(self, reading: float) -> None:
        if os.getpid() == self._pid:  # else this is a process that the step has forked
            self.reading = reading
            if self._is_shared:
                _READING.pack_into(_shared, _place(self._pid) + _READING_AT, reading)


class counted:  # noqa: N801 (used as a function; it is in every step's way)
    """Let the clock of the current attempt run inside the block."""

    def __enter__(self) -> None:
        if clock := current_clock():
            clock.run()

    def __exit__(self, *raised: object) -> None:
        if clock := current_clock():
            clock.stand()


def current_clock() -> CallClock | None:
    """Return the clock of the attempt that this thread runs, None outside of one."""
    return getattr(_current, "clock", None)


def end_call() -> None:
    """Say that the call of the attempt that this thread runs has ended."""
    if clock := current_clock():
        clock.end()


def has_call_ended() -> bool:
    """Whether the call of the attempt that this thread runs has ended."""
    clock = current_clock()
    return clock is not None and clock.has_ended


def call_s(pid: int, attempt: AttemptId) -> float | None:
    """Return for how long the call of an attempt has run by now; None once it has ended."""
    if pid == os.getpid():
        clock = _of_threads.get(attempt)
        reading = clock.reading if clock else 0.0
    else:
        writer, reading = _ENTRY.unpack_from(_shared, _place(pid))
        if writer != pid:  # it has not begun its first attempt yet
            reading = 0.0
    if math.isnan(reading):
        return None
    return time.monotonic() - reading if reading > 0 else -reading


def _place(pid: int) -> int:
    return pid % ENTRIES * _ENTRY.size
