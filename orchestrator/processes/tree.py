"""A process and all that it started, and how they end.

Members are known by descent. What a member hands over to init (a daemon) stays a descendant only
where the root, or a process above it, is a subreaper (`linux.adopt_orphans`); once seen, a member
stays known, whoever its parent is.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress

import psutil

from orchestrator.processes.linux import IS_LINUX, children_by_parent

KILL_LIMIT_S = 10.0
"""Longest wait, in seconds, for a killed tree to disappear."""

_PAUSE_S = 0.02


class ProcessTree:
    """The tree below a process, but for Python's own trackers of shared memory and semaphores.

    Those ignore SIGTERM, belong to no step, and end by themselves once nobody uses them. A member
    that belongs to another user (`sudo`) cannot be ended, keeps no other from being ended, and is
    not waited for.

    A look reads every process of the machine once, however many members there are.
    """

    def __init__(self, pid: int | None = None) -> None:
        """Look at what is below process `pid`; without one, only what is added (`add`) and is below
        that is looked at.

        A process that gets the id of a dead root or member is never taken for it.
        """
        self._root = _process(pid)
        self._has_root = True
        self._known: set[psutil.Process] = set()
        # Those of them that had not ended at the last look, what starts others before what it has
        # started.
        self._running: dict[psutil.Process, None] = {}
        self.look()

    def let_go(self) -> None:
        """Take what the root starts from now on for somebody else's; what was seen before stays."""
        self._has_root = False

    def add(self, processes: Iterable[psutil.Process]) -> None:
        """Take these processes for members, whoever their parents are."""
        self._running.update(
            dict.fromkeys(process for process in processes if process not in self._known)
        )
        self._known.update(self._running)

    def look(self) -> list[psutil.Process]:
        """Add what is now seen below the root to what was seen before; give what still runs,
        without the root."""
        # Before the snapshot: what bears one of these ids there is this process, or a child of it.
        self._running = {process: None for process in self._running if runs(process)}
        ahead = [process.pid for process in self._running]
        if self._has_root and self._root and runs(self._root):
            ahead.append(self._root.pid)
        seen = set(ahead)
        below = _children() if ahead else {}
        while ahead:
            for pid in below.get(ahead.pop(), ()):
                if pid in seen:
                    continue
                seen.add(pid)
                with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    child = psutil.Process(pid)
                    if not is_tracker(child):
                        self.add([child])
                        ahead.append(pid)
        return list(self._running)

    def members(self) -> list[psutil.Process]:
        """Return every process that was ever seen below the root, whether it runs or not."""
        return list(self._known)

    @property
    def size(self) -> int:
        """Return how many processes were ever seen below the root."""
        return len(self._known)

    def wait(self) -> None:
        """Wait until nothing is left below the root."""
        while self.look():
            time.sleep(_PAUSE_S)

    def terminate(self) -> None:
        """Ask every process below the root to end (SIGTERM), each before what it has started.

        A shell that waits for a command would else go on after it, as if the command had ended by
        itself.
        """
        for process in self.look():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                process.terminate()

    def kill(self, within_s: float, kill_root: Callable[[], bool] | None = None) -> bool:
        """End all that is below the root, and the root too if `kill_root` does that; True when all
        of it is gone.

        `kill_root` says whether it has killed the root; else the root goes on, and what it starts
        from now on as well.

        Everything is halted before anything is killed, so that nothing starts anew while the rest
        is being ended. False comes after `within_s`, or as soon as only processes are left that may
        not be killed.
        """
        root = [self._root] if kill_root and self._root else []
        halted: set[psutil.Process] = set()
        while new := {process for process in (*root, *self.look()) if runs(process)} - halted:
            for process in new:
                halted.add(process)
                with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    process.suspend()
        if kill_root and not kill_root():
            root = []
            self.let_go()
        limit = time.monotonic() + within_s
        while True:
            rest = {process for process in (*root, *self.look()) if runs(process)}
            spared = kill_each(rest.difference(root))
            if spared == rest:
                return not spared
            if time.monotonic() > limit:
                return False
            time.sleep(_PAUSE_S)


def kill_each(processes: Iterable[psutil.Process]) -> set[psutil.Process]:
    """Send SIGKILL to each process; give those that may not be killed, since they belong to another
    user."""
    spared = set()
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            pass
        except psutil.AccessDenied:
            spared.add(process)
    return spared


def _process(pid: int | None) -> psutil.Process | None:
    with suppress(psutil.NoSuchProcess):
        return None if pid is None else psutil.Process(pid)
    return None


def _children() -> dict[int, list[int]]:
    """Return the ids of the children of each process of the machine that has any."""
    if IS_LINUX:
        return children_by_parent()
    below: dict[int, list[int]] = defaultdict(list)
    for pid in psutil.pids():
        # not process_iter: it passes over an id that another process has got meanwhile
        with suppress(psutil.Error):
            below[psutil.Process(pid).ppid()].append(pid)
    return below


def is_tracker(process: psutil.Process) -> bool:
    """Whether a process is Python's tracker of shared memory and semaphores, which frees them once
    nobody uses them, and then ends by itself. Raise psutil.Error."""
    return any(
        re.match(r"from [\w.]+\.(resource|semaphore)_tracker import main", word)
        for word in process.cmdline()
    )


def runs(process: psutil.Process) -> bool:
    """Whether a process still runs; a zombie does not: it waits for a parent that is not ours to
    command."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
