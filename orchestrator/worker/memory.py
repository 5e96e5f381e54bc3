"""The limits that steps have for their memory: kept by control groups, or watched by the worker's
main process.

Where a group is delegated to the worker (`worker.memory_groups`) the kernel ends an attempt that
needs more. Else the child notes its attempt's limit in memory that both share; the main process
looks several times a second at what the child and all below it hold, and stops the attempt that has
more. What is shared after a fork counts once (PSS, where the kernel shows it). A step that grows by
gigabytes within one look is over its limit for that long.
"""

from __future__ import annotations

import mmap
import os
import struct

import psutil
from celery.utils.log import get_logger

from orchestrator.errors import MemoryLimitExceeded
from orchestrator.wording import size_text
from orchestrator.worker.announcements import ENTRIES
from orchestrator.worker.interruption import is_prefork_child
from orchestrator.worker.memory_groups import (
    enter_group,
    exceeded_in_group,
    leave_group,
    remove_groups_of,
)

logger = get_logger(__name__)

_ENTRY = struct.Struct("=QQQ")  # process id, bytes, and one of these:
# by the main process, by the kernel; the attempt is stopped for it
_WATCHED, _KEPT, _EXCEEDED = range(3)
# a child's own place is its process id, modulo the number of places
_limits = mmap.mmap(-1, ENTRIES * _ENTRY.size)
_has_limit = False
_at_first = 0  # bytes that this child held before its first limit


def limit_memory(limit: int | None) -> None:
    """Note how much memory the attempt may hold that begins in this child; None for no limit.

    What earlier steps have left in this process is not charged to it.
    """
    global _has_limit, _at_first
    if not is_prefork_child() or (limit is None and not _has_limit):
        return
    _has_limit = limit is not None
    leave_group()
    is_kept = limit is not None and enter_group(limit)
    if limit is not None and not is_kept:
        held = psutil.Process().memory_info().rss
        _at_first = _at_first or held
        limit += max(0, held - _at_first)
    pid = os.getpid()
    _note(pid, limit or 0, _KEPT if is_kept else _WATCHED)


def is_limit_exceeded() -> bool:
    """Return whether the attempt in this child is being stopped for its memory, though its step may
    go on or return."""
    if not _has_limit:
        return False
    noted, _, how = _ENTRY.unpack_from(_limits, os.getpid() % ENTRIES * _ENTRY.size)
    return bool(noted == os.getpid() and how == _EXCEEDED)


def _note(pid: int, limit: int, how: int) -> None:
    _ENTRY.pack_into(_limits, pid % ENTRIES * _ENTRY.size, pid, limit, how)


def limit_of(pid: int, *, is_kept: bool = False) -> int:
    """Return the limit of the attempt that a child runs, in bytes: that to watch, or that which the
    kernel keeps."""
    noted, limit, how = _ENTRY.unpack_from(_limits, pid % ENTRIES * _ENTRY.size)
    return int(limit) if noted == pid and how == (_KEPT if is_kept else _WATCHED) else 0


def exceeded_by(pid: int) -> MemoryLimitExceeded | None:
    """Return the failure of the attempt that a dead child has run, if the kernel ended it for its
    limit; its group is removed."""
    limit = limit_of(pid, is_kept=True)
    held = exceeded_in_group(pid) if limit else None
    remove_groups_of(pid)
    if held is None:
        return None
    return MemoryLimitExceeded(
        f"{excess_text(held, limit)}; the kernel ended it when it needed more"
    )


def excess_text(held: int, limit: int) -> str:
    return (
        f"the attempt held {size_text(held)} of memory with all that it had started; "
        f"its limit (option memory) is {size_text(limit)}"
    )


def note_excess(pid: int, limit: int) -> None:
    """Note that the attempt in a child is stopped for its memory."""
    _note(pid, limit, _EXCEEDED)
