"""The limits that steps have for their memory: kept by control groups, or watched by the worker's main process.

Where a group is delegated to the worker (`worker.memory_groups`) the kernel ends an attempt that needs more. Else the
child notes its attempt's limit in memory that both share; the main process looks several times a second at what
the child and all below it hold, and stops the attempt that has more. What is shared after a fork counts once (PSS,
where the kernel tells it). A step that grows by gigabytes within one look is over its limit for that long.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import psutil
from celery.utils.log import get_logger

from orchestrator.definition.sizes import size_text
from orchestrator.errors import MemoryLimitExceeded
from orchestrator.worker.announcements import ENTRIES
from orchestrator.worker.interruption import is_prefork_child
from orchestrator.worker.memory_groups import enter_group, exceeded_in_group, leave_group, remove_groups_of
from orchestrator.worker.running import RunningAttempt, running
from orchestrator.worker.stopping import OUT_OF_MEMORY, stop_soon

logger = get_logger(__name__)

LOOK_S = 0.1
_ENTRY = struct.Struct("=QQQ")  # process id, bytes, and one of these:
_WATCHED, _KEPT, _EXCEEDED = range(3)  # by the main process, by the kernel; the attempt is stopped for it
_limits = mmap.mmap(-1, ENTRIES * _ENTRY.size)  # a child's own place is its process id, modulo the number of places
_PAGE = os.sysconf("SC_PAGE_SIZE")
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
    """Return whether the attempt in this child is being stopped for its memory, though its step may go on or return."""
    if not _has_limit:
        return False
    noted, _, how = _ENTRY.unpack_from(_limits, os.getpid() % ENTRIES * _ENTRY.size)
    return bool(noted == os.getpid() and how == _EXCEEDED)


def _note(pid: int, limit: int, how: int) -> None:
    _ENTRY.pack_into(_limits, pid % ENTRIES * _ENTRY.size, pid, limit, how)


def limit_of(pid: int, *, is_kept: bool = False) -> int:
    """Return the limit of the attempt that a child runs, in bytes: that to watch, or that which the kernel keeps."""
    noted, limit, how = _ENTRY.unpack_from(_limits, pid % ENTRIES * _ENTRY.size)
    return int(limit) if noted == pid and how == (_KEPT if is_kept else _WATCHED) else 0


def exceeded_by(pid: int) -> MemoryLimitExceeded | None:
    """Return the failure of the attempt that a dead child has run, if the kernel ended it for its limit; its group is
    removed."""
    limit = limit_of(pid, is_kept=True)
    held = exceeded_in_group(pid) if limit else None
    remove_groups_of(pid)
    if held is None:
        return None
    return MemoryLimitExceeded(f"{_told(held, limit)}; the kernel ended it when it needed more")


def _told(held: int, limit: int) -> str:
    return (
        f"the attempt held {size_text(held)} of memory with all that it had started; "
        f"its limit (option memory) is {size_text(limit)}"
    )


def watch_memory(app: Any) -> None:
    """Stop what holds more than its limit; for a thread of the main process."""
    while True:
        time.sleep(LOOK_S)
        for attempt in running:
            if attempt.pid != os.getpid() and (limit := limit_of(attempt.pid)) and not attempt.stop_reason:
                try:
                    _look(app, attempt, limit)
                except Exception:
                    logger.exception("the memory of step %s could not be looked at", attempt.held.step)


def _look(app: Any, attempt: RunningAttempt, limit: int) -> None:
    tree = [*_tree(attempt.pid)]
    if sum(map(_resident, tree)) <= limit:
        return
    held = sum(map(_proportional, tree))
    with running.lock:  # else it may be another attempt's by now
        is_over = held > limit and running.is_running(attempt) and limit_of(attempt.pid) == limit
        if is_over:
            attempt.failure = MemoryLimitExceeded(_told(held, limit))
            _note(attempt.pid, limit, _EXCEEDED)
    if is_over:
        stop_soon(app, attempt, OUT_OF_MEMORY)


def _tree(pid: int) -> Iterator[int]:
    """Return a process and all below it. What loses its parent becomes a child of the attempt's process."""
    if not sys.platform.startswith("linux"):
        with suppress(psutil.Error):
            top = psutil.Process(pid)
            yield from [process.pid for process in (top, *top.children(recursive=True))]
        return
    ahead = [pid]
    while ahead:
        yield (at := ahead.pop())
        with suppress(OSError):  # it has ended
            for thread in os.listdir(f"/proc/{at}/task"):
                with suppress(OSError), open(f"/proc/{at}/task/{thread}/children", "rb") as file:
                    ahead += map(int, file.read().split())


def _resident(pid: int) -> int:
    if sys.platform.startswith("linux"):
        with suppress(OSError), open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
        return 0
    with suppress(psutil.Error):
        return int(psutil.Process(pid).memory_info().rss)
    return 0


def _proportional(pid: int) -> int:
    """Return what a process holds, of shared pages its part only; what is resident where that is not told."""
    with suppress(OSError), open(f"/proc/{pid}/smaps_rollup", "rb") as file:
        for line in file:
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    return _resident(pid)
