"""What steps leave behind when the process that ran them dies, and the two that see to it that
nothing stays.

The worker's main process and each of its children are subreapers: what loses its parent becomes a
child of the next of them above it. So the orphans of a dead child are children of the main process,
and are ended there (`kill_strays`), whether the child died or was renewed. What is left when the
main process itself is killed, its guardian ends.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any

import billiard
import psutil
from celery.utils.log import get_logger

from orchestrator.processes import guardian
from orchestrator.processes.exit_status import KnownChild
from orchestrator.processes.linux import outlive_parent
from orchestrator.processes.tree import KILL_LIMIT_S, ProcessTree, is_tracker, runs
from orchestrator.worker.celery_inside.pool import children_of, watch_children
from orchestrator.worker.log_file import forget_children_but, note_child

logger = get_logger(__name__)

RENEWED_LIMIT_S = 1.0
"""How long cleaning up after a replaced child may block the worker's event loop, when what it
left will not end."""

_guardian: KnownChild | None = None
_pool: Any = None
_left: set[psutil.Process] = set()  # strays that may not be killed, or would not end


def start_guardian(temporary: str, log_format: str) -> None:
    """Start the process that ends our children, and all that they have started, once this one is
    gone."""
    global _guardian
    pid = os.getpid()
    command = [sys.executable, "-I", "-S", guardian.__file__, str(pid), temporary, log_format]
    try:
        os.close(os.pidfd_open(pid))
        _guardian = KnownChild(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
        )
    except OSError as error:  # an old kernel, or no more processes
        logger.warning(
            "no guardian could be started (%s): if this worker is killed, what its steps started"
            " goes on",
            error,
        )


def trust_guardian() -> None:
    """Let the guardian end this child, rather than the kernel. Celery has asked the kernel to do
    that at once; then nobody could know what this child had started."""
    if _guardian is None or _guardian.stdin is None:
        return
    try:
        os.write(_guardian.stdin.fileno(), f"{os.getpid()}\n".encode())
    except OSError:
        return  # no guardian any more: let the kernel end this child with the main process
    outlive_parent()


def watch_pool(pool: Any) -> None:
    """Remember the pool, which knows the children that are not strays. Whenever a child has ended,
    for whatever reason, what it left behind is ended too."""
    global _pool
    _pool = pool
    watch_children(pool, note_child, _end_what_is_left)


def _end_what_is_left() -> None:
    try:
        kill_strays(RENEWED_LIMIT_S)
    except Exception:
        logger.exception("what a child left behind could not be ended")
    forget_children_but({child.pid for child in children_of(_pool)})


def has_guardian() -> bool:
    """Whether somebody ends the pool's children, and all that they have started, once this process
    is gone."""
    is_there = _guardian is not None and _guardian.poll() is None
    return is_there and bool(children_of(_pool))


def kill_strays(within_s: float = KILL_LIMIT_S, **_: Any) -> None:
    """End what dead children have left behind; returns when all of it is gone. In the main process
    only.

    What may not be killed, or has not ended in `within_s`, is reported once, and waited for no
    more.
    """
    if _guardian is None or _pool is None:
        return
    # Celery's own; without waiting for any of them
    started = billiard.active_children(_cleanup=lambda: None)
    own = {process.pid for process in (*children_of(_pool), *started)} | {_guardian.pid}
    deadline = time.monotonic() + within_s
    # Again and again: what a stray had started becomes our child once the stray is gone.
    while True:
        living = []
        for stray in psutil.Process().children():
            if stray.pid in own:
                continue
            if runs(stray):
                if _is_tracker(stray):
                    continue  # it frees what the dead child had, and ends
                living.append(stray)
            else:
                with suppress(ChildProcessError):
                    # Celery waits for its own children, and for those only
                    os.waitpid(stray.pid, os.WNOHANG)
        _left.intersection_update(living)
        new = [stray for stray in living if stray not in _left]
        if not new or time.monotonic() > deadline:
            return
        _kill(new, max(0.1, deadline - time.monotonic()))


def _is_tracker(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return is_tracker(process)
    return False


def _kill(strays: list[psutil.Process], within_s: float) -> None:
    text = ", ".join(str(stray.pid) for stray in strays)
    logger.warning("left behind by a step whose process has ended, and killed: process %s", text)
    tree = ProcessTree()
    tree.add(strays)
    if tree.kill(within_s):
        return
    left = tree.look()
    _left.update(left)
    text = ", ".join(str(process.pid) for process in left)
    logger.error(
        "left behind by a step whose process has ended, and cannot be killed: process %s", text
    )
