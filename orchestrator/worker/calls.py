"""Calling what a step names: a Python function with its inputs, or a shell command."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

from orchestrator.artifacts.outputs import decode_output, plain_json, plain_value
from orchestrator.artifacts.store import ArtifactStore
from orchestrator.definition.context import StopRequested
from orchestrator.definition.model import OutputRef, ParamRef, Template
from orchestrator.definition.wire import from_wire, to_wire
from orchestrator.dispositions import default_signals
from orchestrator.exit_status import KnownChild, how_it_ended, signal_name
from orchestrator.ledger.values import Claim
from orchestrator.settings import settings
from orchestrator.worker.celery_apps import user_celery_app
from orchestrator.worker.code_check import CodeCheck
from orchestrator.worker.process import WorkerProcess
from orchestrator.worker.thread_shares import limit_threads, threads_of
from orchestrator.worker.user_code import UserCode

SHELL_OUTPUT_BYTES = 1024 * 1024  # of standard output kept as the step's output

_user_code = UserCode()


class CommandFailed(Exception):
    """A shell command ended with a code other than 0."""


def code_check(process: WorkerProcess, run_id: str, claim: Claim) -> CodeCheck:
    """Return the check of the code that an attempt runs."""
    return CodeCheck(process, run_id, claim, _user_code)


def call_step(claim: Claim, store: ArtifactStore, code: CodeCheck) -> Any:
    """Run what the claim's spec names and give its value. Every exception of the step's own code passes through."""
    chosen, options = settings(), claim.spec.get("options", {})
    pool = options.get("pool")
    with _user_code.of(claim.import_path), user_celery_app(chosen, pool):
        limit_threads(options.get("threads") or threads_of(chosen, pool))
        values = _Values(claim, store)
        spec = claim.spec
        if "run" in spec:
            return _run_shell(from_wire(spec["run"]), values)
        function = code.function(spec["uses"])
        args = from_wire(spec.get("args", []), values.output, values.param)
        kwargs = from_wire(spec.get("with", {}), values.output, values.param)
        with _folder_kept():
            return function(*args, **kwargs)


class _Values:
    """References looked up in a claim; each output is decoded once."""

    def __init__(self, claim: Claim, store: ArtifactStore) -> None:
        self._claim = claim
        self._store = store
        self._decoded: dict[str, Any] = {}

    def output(self, step: str, path: tuple[str | int, ...]) -> Any:
        if step not in self._decoded:
            self._decoded[step] = decode_output(self._claim.outputs.get(step, ""), self._store)
        return _walk(self._decoded[step], path, f"output of step {step!r}")

    def param(self, name: str, path: tuple[str | int, ...]) -> Any:
        return _walk(from_wire(self._claim.params[name]), path, f"param {name!r}")


def _walk(value: Any, path: tuple[str | int, ...], what: str) -> Any:
    for key in path:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            has = (
                f"its keys are {', '.join(map(repr, value))[:200]}"
                if isinstance(value, dict)
                else f"it is a {type(value).__name__}"
            )
            raise KeyError(f"the {what} has no {key!r}; {has}") from None
    return value


@contextlib.contextmanager
def _folder_kept() -> Iterator[None]:
    """Go back to the folder where the step began, or the next step in this process would begin elsewhere."""
    if threading.current_thread() is not threading.main_thread():
        yield  # threads share one folder, and others are at work in it
        return
    folder = None
    with contextlib.suppress(FileNotFoundError):  # somebody removed it
        folder = os.getcwd()
    try:
        yield
    finally:
        if folder:
            with contextlib.suppress(OSError):
                os.chdir(folder)


def _run_shell(command: str | Template, values: _Values) -> Any:
    """Run a command with /bin/sh -e; standard output is the output, parsed when it is a JSON object or list.

    References are handed over as variables, so that no value is ever read as code.
    """
    variables: dict[str, str] = {}
    text = command if isinstance(command, str) else "".join(_shell_parts(command, values, variables))
    with default_signals():
        process = KnownChild(
            ["/bin/sh", "-e", "-c", text],
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
    kept = bytearray()
    with _ended_with_us(process):
        try:
            code = _follow(process, kept)
        except StopRequested:
            _follow(process, kept)  # who stops us has sent it SIGTERM, and kills it when the grace is over
            raise
    if code:
        how = f"was killed by {signal_name(-code)}" if code < 0 else how_it_ended(code)
        raise CommandFailed(f"the command {how}: {text.strip().splitlines()[0][:200] if text.strip() else ''}")
    shown = kept.decode(errors="replace").rstrip("\n")
    if shown[:1] in ("{", "["):
        with contextlib.suppress(json.JSONDecodeError):
            return json.loads(shown)
    return shown or None


def _follow(process: KnownChild, kept: bytearray) -> int:
    """Print what a command writes until it ends, keep the end of it, and give its exit code."""
    assert process.stdout is not None
    while chunk := os.read(process.stdout.fileno(), 65536):
        with contextlib.suppress(ValueError):  # a closed stdout must not fail the step
            sys.stdout.write(chunk.decode(errors="replace"))
            sys.stdout.flush()
        kept += chunk
        del kept[:-SHELL_OUTPUT_BYTES]
    return process.wait()


def _shell_parts(command: Template, values: _Values, variables: dict[str, str]) -> Iterator[str]:
    for part in command.parts:
        if isinstance(part, str):
            yield part
            continue
        value = values.output(part.step, part.path) if isinstance(part, OutputRef) else _param(part, values)
        name = f"ORC_VALUE_{len(variables) + 1}"
        variables[name] = _shell_text(value)
        yield f"${{{name}}}"


def _shell_text(value: Any) -> str:
    shown = plain_value(value)
    return str.__str__(shown) if isinstance(shown, str) else json.dumps(shown, default=str)


def _param(reference: ParamRef, values: _Values) -> Any:
    return plain_json(to_wire(values.param(reference.param, reference.path), typed=True))


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
        if process.stdout:
            process.stdout.close()
