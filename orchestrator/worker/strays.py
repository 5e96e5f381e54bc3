"""What steps leave behind when the process that ran them dies, and the two that see to it that
nothing stays.

The worker's main process and each of its children are subreapers: what loses its parent becomes a
child of the next of them above it. So the orphans of a dead child are children of the main process,
and are ended there (`kill_strays`), whether the child died or was renewed. What is left when the
main process itself is killed, its guardian ends.
"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import billiard
import psutil
from celery.concurrency.asynpool import WORKER_UP
from celery.signals import worker_init, worker_process_init, worker_ready, worker_shutdown
from celery.utils.log import get_logger

from orchestrator.processes import guardian
from orchestrator.processes.dispositions import begin_with_own_signals, heeded
from orchestrator.processes.exit_status import KnownChild
from orchestrator.processes.linux import adopt_orphans, outlive_parent
from orchestrator.processes.temporary import (
    make_temporary_folder,
    remove_temporary_folder,
    use_temporary_folder,
)
from orchestrator.processes.tree import KILL_LIMIT_S, ProcessTree, is_tracker, runs
from orchestrator.settings.sources import settings
from orchestrator.worker.failures import note_memory_events
from orchestrator.worker.interruption import listen_in_child
from orchestrator.worker.log_file import forget_children_but, note_child, prepare_file
from orchestrator.worker.memory_groups import prepare_groups, remove_leftovers
from orchestrator.worker.own_descriptors import keep_those_of_pool
from orchestrator.worker.renewal import make_renewable
from orchestrator.worker.thread_shares import share_cores

logger = get_logger(__name__)


_main_pid = 0
_worker: Any = None
_temporary = ""  # folder
_guardian: KnownChild | None = None
_pool: Any = None
_left: set[psutil.Process] = set()  # strays that may not be killed, or would not end

RENEWED_LIMIT_S = 1.0
"""So long the worker's event loop stands still at most when a child is renewed and what it left
will not end."""


def connect_signals() -> None:
    """Have the main process and its children set up when Celery starts them; called once, when the
    app is made."""
    worker_init.connect(_set_up_main)
    worker_process_init.connect(_set_up_child)
    worker_shutdown.connect(kill_strays)  # its children have ended by then


def _set_up_main(sender: Any, **_: Any) -> None:
    global _main_pid, _guardian, _worker, _temporary
    _main_pid, _worker = os.getpid(), sender
    begin_with_own_signals()
    if signal.SIGHUP not in heeded(signal.SIGHUP):
        # by nohup; Celery would restart the worker when the terminal closes
        worker_ready.connect(_ignore_hangup, weak=False)
    _temporary = make_temporary_folder()
    worker_shutdown.connect(_remove_temporary_folder, weak=False)
    prepare_groups()
    worker_shutdown.connect(remove_leftovers, weak=False)
    note_memory_events()
    if not adopt_orphans():
        logger.warning(
            "this system has no subreapers: what a step leaves behind when its process dies goes on"
            " running"
        )
        return
    try:
        os.close(os.pidfd_open(_main_pid))
        _guardian = KnownChild(
            [
                sys.executable,
                "-I",
                "-S",
                guardian.__file__,
                str(_main_pid),
                _temporary,
                settings().log_format,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:  # an old kernel, or no more processes
        logger.warning(
            "no guardian could be started (%s): if this worker is killed, what its steps started"
            " goes on",
            error,
        )


def _remove_temporary_folder(**_: Any) -> None:
    remove_temporary_folder(_temporary)


def _ignore_hangup(**_: Any) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def watch_pool(pool: Any) -> None:
    """Remember the pool, which knows the children that are no strays, and let it notice a child's
    death at once.

    Whenever a child has ended, for whatever reason, what it left behind is ended too.
    """
    global _pool
    _pool = pool
    children = getattr(pool, "_pool", None)
    if children is None or not hasattr(children, "_join_exited_workers"):
        return
    join_exited = children._join_exited_workers

    def join_exited_and_kill_strays(*arguments: Any, **options: Any) -> Any:
        # In the thread that forks the children, so no child is there of which the pool does not
        # know yet.
        exited = join_exited(*arguments, **options)
        if exited:
            try:
                kill_strays(RENEWED_LIMIT_S)
            except Exception:
                logger.exception("what a child left behind could not be ended")
            forget_children_but({child.pid for child in _children_of_pool()})
        return exited

    children._join_exited_workers = join_exited_and_kill_strays
    _note_children_that_begin(children)
    track = getattr(children, "_track_child_process", None)
    if track is None or not hasattr(os, "pidfd_open"):
        return

    def track_by_pidfd(child: Any, hub: Any) -> None:
        # Celery waits for the end of a pipe. A dying child closes it a moment before it can be
        # waited for, and what it forked may keep it open: either way its death would be noticed by
        # Celery's look every 5 s only.
        if getattr(child, "_sentinel_poll", None) is None:
            with suppress(OSError):
                child._sentinel_poll = os.pidfd_open(child.pid)
        track(child, hub)

    children._track_child_process = track_by_pidfd


def _note_children_that_begin(children: Any) -> None:
    """Open the log of each child when it says that it is there, before it is given anything to
    do."""
    for child in _children_of_pool():
        note_child(child.pid)
    answers = getattr(getattr(children, "_result_handler", None), "state_handlers", {})
    if is_there := answers.get(WORKER_UP):

        def is_there_and_noted(pid: int) -> Any:
            note_child(pid)
            return is_there(pid)

        answers[WORKER_UP] = is_there_and_noted


def _set_up_child(sender: Any, **_: Any) -> None:
    if os.getpid() == _main_pid or not _main_pid:
        # the solo pool sends this signal in the main process
        return
    gc.freeze()  # what came by the fork stays: no collection need look at it, nor copy its pages
    listen_in_child()
    forget_children_but(())  # of the main process, which this one has inherited
    prepare_file()
    share_cores(slots_of(_worker))
    make_renewable()
    keep_those_of_pool()
    use_temporary_folder(_temporary)
    if not adopt_orphans() or _guardian is None or _guardian.stdin is None:
        return
    try:
        os.write(_guardian.stdin.fileno(), f"{os.getpid()}\n".encode())
    except OSError:
        return  # no guardian any more: let the kernel end this child with the main process
    # Celery has asked the kernel to do that at once; then nobody could tell what this child had
    # started.
    outlive_parent()


def slots_of(worker: Any) -> int:
    """Return how many steps a worker runs at a time, at most."""
    return getattr(worker, "max_concurrency", None) or getattr(worker, "concurrency", None) or 1


def has_guardian() -> bool:
    """Whether somebody ends the pool's children, and all that they have started, once this process
    is gone."""
    is_there = _guardian is not None and _guardian.poll() is None
    return is_there and bool(_children_of_pool())


def kill_strays(limit_s: float = KILL_LIMIT_S, **_: Any) -> None:
    """End what dead children have left behind; returns when all of it is gone. In the main process
    only.

    What may not be killed, or has not ended in `limit_s`, is told once, and waited for no more.
    """
    if _guardian is None or _pool is None:
        return
    # Celery's own; without waiting for any of them
    started = billiard.active_children(_cleanup=lambda: None)
    own = {process.pid for process in (*_children_of_pool(), *started)} | {_guardian.pid}
    deadline = time.monotonic() + limit_s
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


def _children_of_pool() -> Iterable[Any]:
    return list(getattr(getattr(_pool, "_pool", None), "_pool", ()))


def _kill(strays: list[psutil.Process], limit_s: float) -> None:
    told = ", ".join(str(stray.pid) for stray in strays)
    logger.warning("left behind by a step whose process has ended, and killed: process %s", told)
    tree = ProcessTree()
    tree.add(strays)
    if tree.kill(limit_s):
        return
    left = tree.look()
    _left.update(left)
    told = ", ".join(str(process.pid) for process in left)
    logger.error(
        "left behind by a step whose process has ended, and cannot be killed: process %s", told
    )
