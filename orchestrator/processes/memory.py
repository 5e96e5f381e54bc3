"""How much memory a process and all below it hold."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress

import psutil

_PAGE = os.sysconf("SC_PAGE_SIZE")


def tree_of(pid: int) -> Iterator[int]:
    """Return a process and all below it. What loses its parent becomes a child of the attempt's
    process."""
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


def resident_bytes(pid: int) -> int:
    if sys.platform.startswith("linux"):
        with suppress(OSError), open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
        return 0
    with suppress(psutil.Error):
        return int(psutil.Process(pid).memory_info().rss)
    return 0


def proportional_bytes(pid: int) -> int:
    """Return what a process holds, of shared pages its part only; what is resident where that is
    not told."""
    with suppress(OSError), open(f"/proc/{pid}/smaps_rollup", "rb") as file:
        for line in file:
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    return resident_bytes(pid)
