"""Calling what a step names: a Python function with its inputs, or a shell command."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

from orchestrator.artifacts.outputs import decode_output, plain_json
from orchestrator.artifacts.store import ArtifactStore
from orchestrator.attempt_context import StopRequested
from orchestrator.definition.model import OutputRef, ParamRef, Template
from orchestrator.definition.wire import from_wire, to_wire
from orchestrator.errors import CommandFailed, SecretsLost
from orchestrator.ledger.entries import CallKind
from orchestrator.ledger.values import Claim
from orchestrator.processes.dispositions import default_signals
from orchestrator.processes.exit_status import KnownChild, how_it_ended, signal_name
from orchestrator.settings.sources import settings
from orchestrator.worker.call_clock import counted
from orchestrator.worker.child.celery_apps import user_celery_app
from orchestrator.worker.child.code_check import CodeCheck
from orchestrator.worker.child.server_in_steps import server_as_the_pool_says
from orchestrator.worker.child.shell_streams import Shown, follow, let_go
from orchestrator.worker.child.shell_values import HandedOver, ReferenceUnusable, handed_over
from orchestrator.worker.child.user_code import UserCode
from orchestrator.worker.memory import limit_memory
from orchestrator.worker.process import WorkerProcess
from orchestrator.worker.thread_shares import limit_threads, threads_of

_user_code = UserCode()


def code_check(process: WorkerProcess, run_id: str, claim: Claim) -> CodeCheck:
    """Return the check of the code that an attempt runs."""
    return CodeCheck(process, run_id, claim, _user_code)


def call_step(claim: Claim, store: ArtifactStore, code: CodeCheck) -> Any:
    """Run what the claim's spec names and give its value. Every exception of the step's own code
    passes through."""
    if claim.secrets is None:
        raise SecretsLost(
            "the server has lost the secret params of this run. Cancel the run, and resume it with"
            " them: orchestrator resume RUN -p NAME=@FILE"
        )
    chosen, spec = settings(), claim.spec
    options, pool = spec.options, spec.pool
    with (
        _user_code.of(claim.import_path, spec.module),
        user_celery_app(chosen, pool),
        server_as_the_pool_says(chosen, pool),
    ):
        limit_memory(options.get("memory"))
        limit_threads(options.get("threads") or threads_of(chosen, pool))
        values = _Values(claim, store)
        if spec.kind is CallKind.SHELL:
            return _run_shell(from_wire(spec.command), values, chosen.shell_output_mb)
        with counted():
            function = code.function(spec.uses)
        args = from_wire(spec.args, values.output, values.param)
        kwargs = from_wire(spec.kwargs, values.output, values.param)
        with counted():
            return function(*args, **kwargs)


class _Values:
    """References looked up in a claim; each output is decoded once."""

    def __init__(self, claim: Claim, store: ArtifactStore) -> None:
        self._claim = claim
        self._store = store
        self._decoded: dict[str, Any] = {}

    def output(self, step: str, path: tuple[str | int, ...]) -> Any:
        if step not in self._decoded:
            self._decoded[step] = decode_output(
                self._claim.outputs.get(step, ""), self._store, self._secret
            )
        return _walk(self._decoded[step], path, f"output of step {step!r}")

    def _secret(self, name: str, path: tuple[str | int, ...]) -> str:
        """Return a secret that an output holds."""
        secrets = self._claim.secrets or {}
        if name not in secrets:
            raise SecretsLost(
                f"an output holds the secret param {name!r}, which this run no longer has"
            )
        return secrets[name]

    def param(self, name: str, path: tuple[str | int, ...]) -> Any:
        secret = (self._claim.secrets or {}).get(name)
        value = from_wire(self._claim.params[name]) if secret is None else secret
        return _walk(value, path, f"param {name!r}")

    def of_reference(self, reference: OutputRef | ParamRef) -> Any:
        """Return the value for a command: that of a param is plain JSON."""
        if isinstance(reference, OutputRef):
            return self.output(reference.step, reference.path)
        value = self.param(reference.param, reference.path)
        return value if type(value) is str else plain_json(to_wire(value, typed=True))


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


def _run_shell(command: str | Template, values: _Values, output_mb: int) -> Any:
    """Run a command with /bin/sh -e; standard output is the output, parsed when it is a JSON object
    or list."""
    with handed_over(command, values.of_reference) as given:
        process = _started(given)
        output, error = _ShellOutput(output_mb), Shown("stderr")
        with counted(), _ended_with_us(process):
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
