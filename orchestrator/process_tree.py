"""A process and all that it started, and how they end.

Members are told by descent. What a member hands over to init (a daemon) stays a descendant only where the root, or a
process above it, is a subreaper (`adopt_orphans`); once seen, a member stays known, whoever its parent is.
"""

from __future__ import annotations

import ctypes
import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress

import psutil

KILL_LIMIT_S = 10.0
"""So long whoever kills waits at most until all of it is gone."""

_PR_SET_CHILD_SUBREAPER = 36
_PAUSE_S = 0.02


class ProcessTree:
    """The tree below a process, but for Python's own trackers of shared memory and semaphores.

    Those ignore SIGTERM, belong to no step, and end by themselves once nobody uses them. A member that belongs to
    another user (`sudo`) cannot be ended, and keeps no other from being ended.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._known: set[psutil.Process] = set()
        self._has_root = True
        self.look()

    def let_go(self) -> None:
        """Take what the root starts from now on for somebody else's; what was seen before stays."""
        self._has_root = False

    def look(self) -> list[psutil.Process]:
        """Add what is now seen below the root to what was seen before; give what still runs, without the root."""
        if self._has_root:
            with suppress(psutil.NoSuchProcess):
                self._add(psutil.Process(self.pid))
        for known in list(self._known):
            with suppress(psutil.NoSuchProcess):
                self._add(known)
        return [process for process in self._known if runs(process)]

    def _add(self, process: psutil.Process) -> None:
        for child in process.children():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if child not in self._known and not _is_tracker(child):
                    self._known.add(child)
                    self._add(child)

    def members(self) -> list[psutil.Process]:
        """Give every process that was ever seen below the root, whether it runs or not."""
        return list(self._known)

    @property
    def size(self) -> int:
        """Give how many processes were ever seen below the root."""
        return len(self._known)

    def wait(self) -> None:
        """Wait until nothing is left below the root."""
        while self.look():
            time.sleep(_PAUSE_S)

    def terminate(self) -> None:
        """Ask every process below the root to end (SIGTERM)."""
        for process in self.look():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                process.terminate()

    def kill(self, limit_s: float, kill_root: Callable[[], bool] | None = None) -> bool:
        """End all that is below the root, and the root too if `kill_root` does that; True when all of it is gone.

        `kill_root` tells whether it has killed the root; else the root goes on, and what it starts from now on as well.

        Everything is halted before anything is killed, so that nothing starts anew while the rest is being ended.
        """
        root: list[psutil.Process] = []
        if kill_root:
            with suppress(psutil.NoSuchProcess):
                root = [psutil.Process(self.pid)]
        halted: set[psutil.Process] = set()
        while new := [process for process in (*root, *self.look()) if process not in halted and runs(process)]:
            for process in new:
                halted.add(process)
                with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    process.suspend()
        if kill_root and not kill_root():
            root = []
            self.let_go()
        limit = time.monotonic() + limit_s
        while rest := [process for process in (*root, *self.look()) if runs(process)]:
            for process in rest:
                if process not in root:
                    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                        process.kill()
            if time.monotonic() > limit:
                return False
            time.sleep(_PAUSE_S)
        return True


def _is_tracker(process: psutil.Process) -> bool:
    return any(re.match(r"from [\w.]+\.(resource|semaphore)_tracker import main", word) for word in process.cmdline())


def runs(process: psutil.Process) -> bool:
    """Whether a process still runs; a zombie does not: it waits for a parent that is not ours to command."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def adopt_orphans() -> bool:
    """Let this process be the new parent of what its descendants leave behind; False where that cannot be."""
    if not sys.platform.startswith("linux"):
        return False
    return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
