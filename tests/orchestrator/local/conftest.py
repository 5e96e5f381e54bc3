"""A data folder whose processes are known."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest


@pytest.fixture
def data_dir(tmp_path: Path, wait_until: Callable[..., None]) -> Iterator[Path]:
    """A data folder with a space in its name; at the end no process of it is left."""
    folder = tmp_path / "data dir"
    yield folder
    wait_until(lambda: not _processes_of(folder))


@pytest.fixture
def processes_of() -> Callable[[Path], list[str]]:
    """Return the names of the processes that work in a data folder, zombies included."""
    return _processes_of


@pytest.fixture
def user_process() -> Iterator[Callable[[Path], subprocess.Popen[str]]]:
    """Start processes that use a folder's server until their standard input ends; each prints the
    URL first."""
    code = (
        "import sys; from pathlib import Path; from orchestrator.local.server import"
        " embedded_server\nwith embedded_server(Path(sys.argv[1])) as url: print(url, flush=True);"
        " sys.stdin.read()"
    )
    with ExitStack() as started:

        def start(data_dir: Path) -> subprocess.Popen[str]:
            command = [sys.executable, "-c", code, str(data_dir)]
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            started.enter_context(process)
            started.callback(_kill, process)
            return process

        yield start


def _kill(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)


def _processes_of(data_dir: Path) -> list[str]:
    found = []
    for pid in psutil.pids():
        with suppress(psutil.Error, OSError):
            process = psutil.Process(pid)
            place = str((data_dir / "valkey").resolve())
            is_zombie_of_ours = (
                process.status() == psutil.STATUS_ZOMBIE and process.ppid() == os.getpid()
            )
            if is_zombie_of_ours or process.cwd() == place:
                found.append(process.name())
    return sorted(found)
