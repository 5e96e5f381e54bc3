"""Workers of a site as processes that a test may harm."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.support.site.constants import GONE_LIMIT_S, MARK


def is_running(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def is_guardian(process: psutil.Process) -> bool:
    return any("guardian.py" in word for word in process.cmdline())


def marked(mark: str) -> list[psutil.Process]:
    """Return the running processes whose mark begins with this one."""
    found = []
    for pid in psutil.pids():
        # not process_iter, which passes over a process that has got the id of one it knew
        with suppress(psutil.Error, OSError):
            process = psutil.Process(pid)
            if process.environ().get(MARK, "").startswith(mark) and is_running(process):
                found.append(process)
    return found


@dataclass(eq=False)
class Worker:
    """A real Celery worker, with `slots` prefork children (0 in a pool of threads)."""

    name: str
    process: subprocess.Popen[bytes]
    log_path: Path
    slots: int
    mark: str

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def processes(self) -> list[psutil.Process]:
        """Return all that runs of this worker and of its steps, whoever its parent is now."""
        return marked(self.mark)

    def commands(self, name: str) -> int:
        """Return how many processes of a program run of this worker and its steps."""
        return count_named(self.processes(), name)

    def children(self) -> list[psutil.Process]:
        """Return the processes in which it runs steps."""
        return [
            child for child in psutil.Process(self.process.pid).children() if not is_guardian(child)
        ]

    def tell(self, signum: int) -> None:
        self.process.send_signal(signum)

    def kill(self) -> None:
        """SIGKILL to the main process alone."""
        self.process.kill()
        self.process.wait()

    def halt(self) -> None:
        """Stop the worker (SIGSTOP) with its children and all that they started."""
        self.process.send_signal(signal.SIGSTOP)
        for process in self.processes():
            if not is_guardian(process):
                process.suspend()

    def go_on(self) -> None:
        for process in self.processes():
            process.resume()

    def end(self) -> None:
        """End it with all that it started, and see that nothing is left."""
        self.process.kill()
        self.process.wait()
        limit = time.monotonic() + GONE_LIMIT_S
        while left := self.processes():
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            assert time.monotonic() < limit, f"{left} cannot be killed"
            time.sleep(0.02)


def count_named(processes: Iterable[psutil.Process], name: str) -> int:
    """Return how many of the processes run a program; one may end meanwhile."""
    count = 0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            count += process.name() == name
    return count
