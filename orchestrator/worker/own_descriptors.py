"""The descriptors without which a worker's child cannot go on, and what follows when a step has
closed one of them.

A step may close what is not its own: all from 3 on, as libraries do that make daemons, or a number
that it closes twice. What the child writes after that goes nowhere, or into a file of the step's
that has got the number since. So the child ends at once, and its exit code shows its worker's main
process why.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

import billiard

EXIT_CLOSED = 0x9C  # next to billiard's own, EX_RECYCLE

_kept: dict[int, tuple[int, int]] = {}  # descriptor -> the file that it leads to


def keep(*descriptors: int) -> None:
    """Remember that this process needs these descriptors."""
    for number in descriptors:
        _kept[number] = _file_of(number)


def forget(*descriptors: int) -> None:
    """Forget descriptors that we have closed, or are about to."""
    for number in descriptors:
        _kept.pop(number, None)


def keep_those_of_pool() -> None:
    """Remember the pipes between this child of a prefork pool and its main process."""
    worker = getattr(billiard.current_process(), "_target", None)
    for queue, end in (("inq", "_reader"), ("outq", "_writer"), ("synq", "_reader")):
        if pipe := getattr(getattr(worker, queue, None), end, None):
            keep(pipe.fileno())


def is_kept(number: int) -> bool:
    """Return whether a descriptor still leads to what it led to."""
    return _file_of(number) == _kept.get(number)


def end_if_closed() -> None:
    """End this process if a step has closed one of its descriptors; what the step printed is where
    it was."""
    if closed := [number for number in _kept if not is_kept(number)]:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        with suppress(OSError):
            names = ", ".join(map(str, closed))
            os.write(2, f"closed by the step: descriptors {names} of its process\n".encode())
        os._exit(EXIT_CLOSED)


def _file_of(number: int) -> tuple[int, int]:
    try:
        status = os.fstat(number)
    except OSError:
        return -1, -1
    return status.st_dev, status.st_ino
