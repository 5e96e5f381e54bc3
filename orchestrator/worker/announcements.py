"""What a worker's main process says to its children before it signals them, in memory that they
share.

A signal does not say who sent it, and anybody of the same user may send one. So the main process
announces each signal for one attempt in one child first; what is not announced came from outside.
In the other direction a child notes that it was sent SIGTERM, which means something only if the
worker itself is not ending.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
import zlib

from orchestrator.attempt_id import AttemptId

ENTRIES = 4096
# process id, checksum of the attempt and the signal; process id 0 is free
_ENTRY = struct.Struct("=II")
_PID = struct.Struct("=I")

_announced = mmap.mmap(-1, ENTRIES * _ENTRY.size)  # written by the main process only
# a child's own place is its process id, modulo the number of places
_terminated = mmap.mmap(-1, ENTRIES * _PID.size)
_lock = threading.Lock()


def announce(pid: int, attempt: AttemptId, signum: int) -> None:
    """Let a child take this signal for ours while it runs this attempt; to be called before it is
    sent."""
    entry = _entry(pid, attempt, signum)
    with _lock:
        if _place(entry) is None and (free := _place(_ENTRY.pack(0, 0))) is not None:
            _announced[free : free + _ENTRY.size] = entry


def withdraw(pid: int, attempt: AttemptId, signum: int) -> None:
    """Take an announcement back: the attempt has ended."""
    with _lock:
        if (place := _place(_entry(pid, attempt, signum))) is not None:
            _announced[place : place + _ENTRY.size] = _ENTRY.pack(0, 0)


def is_announced(attempt: AttemptId, signum: int) -> bool:
    """Whether a signal that this child has got for the attempt that it runs is ours. Takes no
    lock."""
    return _place(_entry(os.getpid(), attempt, signum)) is not None


def note_terminated(is_terminated: bool) -> None:
    """Note that this child was sent SIGTERM during its attempt, or that it begins a new one. Takes
    no lock."""
    pid = os.getpid()
    _PID.pack_into(_terminated, pid % ENTRIES * _PID.size, pid if is_terminated else 0)


def is_terminated(pid: int) -> bool:
    """Whether a child was sent SIGTERM during the attempt that it runs."""
    return bool(_PID.unpack_from(_terminated, pid % ENTRIES * _PID.size)[0] == pid)


def _entry(pid: int, attempt: AttemptId, signum: int) -> bytes:
    return _ENTRY.pack(
        pid, zlib.crc32(f"{attempt.run_id} {attempt.step} {attempt.attempt} {signum}".encode())
    )


def _place(entry: bytes) -> int | None:
    place = _announced.find(entry)
    while place % _ENTRY.size and place >= 0:
        place = _announced.find(entry, place + 1)
    return None if place < 0 else place
