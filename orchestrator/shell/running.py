"""A step's command run with /bin/sh: on a worker, and in a process of the user's."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from orchestrator.attempt_context import StopRequested
from orchestrator.definition.pipeline import OutputRef, ParamRef, Template
from orchestrator.errors import CommandFailed
from orchestrator.processes.dispositions import default_signals
from orchestrator.processes.exit_status import KnownChild, how_it_ended, signal_name
from orchestrator.shell.streams import Shown, follow, let_go
from orchestrator.shell.values import HandedOver, ReferenceUnusable, handed_over


def run_shell(
    command: str | Template,
    value_of: Callable[[OutputRef | ParamRef], Any],
    output_mb: int,
    clock: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext,
) -> Any:
    """Run a command with /bin/sh -e; standard output is the output, parsed when it is a JSON object
    or list. `clock` is held while the command runs."""
    with handed_over(command, value_of) as given:
        process = _started(given)
        output, error = _ShellOutput(output_mb), Shown("stderr")
        with clock(), _ended_with_us(process):
            try:
                code = follow(process, output.add, error)
            except StopRequested:
                # who stops us has sent it SIGTERM, and kills it when the grace is over
                follow(process, output.show, error)
                raise
            for shown in (output.show, error):
                shown(b"", is_end=True)
    if code:
        how = f"was killed by {signal_name(-code)}" if code < 0 else how_it_ended(code)
        text = given.text.strip()
        raise CommandFailed(f"the command {how}: {text.splitlines()[0][:200] if text else ''}")
    return output.value()


def _started(given: HandedOver) -> KnownChild:
    environment = {**os.environ, **given.variables}
    given.check_length(environment)
    try:
        with default_signals():
            return KnownChild(
                ["/bin/sh", "-e", "-c", given.text],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
    except OSError as error:
        if error.errno == errno.E2BIG:  # by a rule of this system that is not known here
            raise ReferenceUnusable(given.too_long()) from None
        raise


class _ShellOutput:
    """What a command writes to standard output: printed as it comes, and kept whole."""

    def __init__(self, limit_mb: int) -> None:
        self._limit_mb = limit_mb
        self._kept = bytearray()
        self.show = Shown("stdout")

    def add(self, data: bytes) -> None:
        """Raise CommandFailed when it is more than may be kept: a part of it would pass for the
        whole."""
        self.show(data)
        if len(self._kept) + len(data) > self._limit_mb * 1024 * 1024:
            raise CommandFailed(
                f"the command wrote more than {self._limit_mb} MB to standard output, which is its"
                " output. Write what is not to standard error (>&2), write large results to files,"
                " or raise shell_output_mb"
            )
        self._kept += data

    def value(self) -> Any:
        text = self._kept.decode(errors="replace").rstrip("\n")
        if text.lstrip(" \t\r\n")[:1] in ("{", "["):
            with contextlib.suppress(ValueError, RecursionError):
                # it only looks like JSON, or is more than Python reads
                return json.loads(text)
        return text or None


@contextlib.contextmanager
def _ended_with_us(process: KnownChild) -> Iterator[None]:
    """End the command's whole process group if we leave early."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    finally:
        let_go(process.stdout)
        let_go(process.stderr)
