"""The `orchestrator` command as a user has it: a process of its own, in a folder of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

LIMIT_S = 60.0


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Place:
    """A working folder with pipelines in it, and the commands that are given there."""

    command = str(Path(sys.executable).with_name("orchestrator"))

    def __init__(self, folder: Path, variables: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.variables = dict(variables or {})
        folder.mkdir(exist_ok=True)

    def write(self, name: str, text: str) -> str:
        """Write a file and give its name; Python gets the names of the package first."""
        head = (
            "from orchestrator import PipelineBuilder, pipeline, step\n"
            if name.endswith(".py")
            else ""
        )
        (self.folder / name).write_text(head + textwrap.dedent(text))
        return name

    def environment(self) -> dict[str, str]:
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("ORCHESTRATOR_")
        }
        return inherited | self.variables

    def start(self, *arguments: object, **options: Any) -> subprocess.Popen[str]:
        """Start a command whose outputs are pipes."""
        given = {
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "stdin": subprocess.DEVNULL,
            "text": True,
        }
        command = [self.command, *map(str, arguments)]
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environment(), **{**given, **options}
        )

    def call(self, *arguments: object, within_s: float = LIMIT_S) -> Done:
        """Return a command and wait for its end."""
        with self.start(*arguments) as process:
            try:
                out, err = process.communicate(timeout=within_s)
            except BaseException:
                process.send_signal(signal.SIGINT)
                out, err = process.communicate(timeout=120)
                print(out, err, sep="\n")
                raise
        return Done(process.returncode, out, err)

    def processes(self) -> list[psutil.Process]:
        """Return what runs in this folder: servers, workers and steps inherit it from the command
        that started them."""
        found = []
        for pid in psutil.pids():
            with suppress(psutil.Error, OSError):
                process = psutil.Process(pid)
                if process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()).is_relative_to(
                    self.folder
                ):
                    found.append(process)
        return found
