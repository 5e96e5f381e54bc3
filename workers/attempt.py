"""The life of one attempt: claim, load the inputs, run the step, save the output, commit, dispatch what is ready."""

from __future__ import annotations

import os
import random
import signal
import threading
import traceback as tracebacks
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from uuid import uuid4

from billiard.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded

from orchestrator.artifacts.outputs import encode_output
from orchestrator.artifacts.store import Artifact
from orchestrator.definition.options import StepOptions
from orchestrator.definition.retry import exception_names, may_retry, retry_delay_s
from orchestrator.ledger.ledger import Claim, Commit, Refusal
from orchestrator.ledger.states import Outcome, StepState
from orchestrator.messages.dispatch import dispatch
from workers.calls import call_step
from workers.process import WorkerProcess

TRACEBACK_CHARS = 16_000
MESSAGE_CHARS = 4_000
_DEFAULT_OPTIONS = StepOptions()


class AttemptFailed(Exception):
    """An attempt failed; the text says with what. Carries text only, so that it passes between any processes."""


class AttemptRetrying(AttemptFailed):
    """An attempt failed and the step is tried again `in_s` seconds from now."""

    def __init__(self, text: str, in_s: float = 0.0) -> None:
        super().__init__(text)
        self.in_s = in_s


@dataclass(frozen=True, slots=True)
class End:
    """How an attempt went, for Celery. The ledger has it already when `is_in_ledger`."""

    note: str = ""
    failure: AttemptFailed | None = None
    traceback: TracebackType | None = None
    is_chain_going_on: bool = False
    is_in_ledger: bool = True


def run_attempt(
    process: WorkerProcess, run_id: str, step: str, attempt: int, worker: str, follower: tuple[str, int]
) -> End:
    """Run one attempt, from claim to dispatch. A refused claim is a quiet end: the message was a duplicate."""
    claim = process.ledger.claim(run_id, step, attempt, uuid4().hex[:12], worker)
    if isinstance(claim, Refusal):
        return End(note=f"dropped: {claim.reason}")

    error: BaseException | None = None
    output, pid = "", os.getpid()
    with process.capture.attempt(run_id, step, attempt, claim.token):
        try:
            value = call_step(claim, process.store)
            output = encode_output(
                value,
                process.settings.inline_output_bytes,
                lambda value: _saved(process, run_id, step, attempt, claim.token, value),
            )
        except BaseException as raised:  # KeyboardInterrupt too: whatever the step raises is its failure
            error = raised
        if os.getpid() != pid:  # a process that the step forked and let return: it must not commit for its parent
            os._exit(0)

    options = _options(claim.spec)
    with _deaf_to_time_limit() if options.timeout else nullcontext():
        if error is None:
            commit = process.ledger.commit(
                run_id, step, attempt, claim.token, worker, Outcome.SUCCEEDED, output=output, follower=follower
            )
            return _finish(process, run_id, claim, commit, None, 0.0)
        failure = _Failure.of(error, options, attempt)
        commit = process.ledger.commit(
            run_id, step, attempt, claim.token, worker, failure.outcome, **failure.for_commit()
        )
        return _finish(process, run_id, claim, commit, failure.error, failure.retry_in_s or 0.0)


def witness_failure(
    process: WorkerProcess, run_id: str, step: str, attempt: int, worker: str, error: BaseException
) -> None:
    """Take to the ledger a failure that Celery saw before the attempt could: its process died, or was killed."""
    spec = process.ledger.spec(run_id, step)
    if spec is None:
        return
    failure = _Failure.of(error, _options(spec), attempt, otherwise=Outcome.LOST)
    commit = process.ledger.commit(run_id, step, attempt, 0, worker, failure.outcome, **failure.for_commit())
    if isinstance(commit, Commit):
        dispatch(process.app, run_id, process.ledger.run_fields(run_id)["pipeline"], commit.ready)


@dataclass(frozen=True, slots=True)
class _Failure:
    """What a failed attempt comes to, by the step's options."""

    error: BaseException
    outcome: Outcome
    retry_in_s: float | None

    @classmethod
    def of(
        cls, error: BaseException, options: StepOptions, attempt: int, otherwise: Outcome = Outcome.FAILED
    ) -> _Failure:
        outcome = otherwise
        if isinstance(error, SoftTimeLimitExceeded | TimeLimitExceeded):
            outcome = Outcome.TIMED_OUT
            told = f"the attempt took longer than its timeout of {options.timeout or 0:g} s"
            error = StepTimedOut(told).with_traceback(error.__traceback__)
        if not may_retry(options, attempt, exception_names(type(error))):
            return cls(error, outcome, None)
        return cls(error, outcome, retry_delay_s(options, attempt, random.random()))

    def for_commit(self) -> dict[str, Any]:
        return {"detail": {"error": error_card(self.error)}, "retry_in_s": self.retry_in_s}


class StepTimedOut(TimeoutError):
    """An attempt took longer than its step's timeout."""


class OutputNotStored(TypeError):
    """A step gave a value that no other process can get, such as an open connection."""


def error_card(error: BaseException) -> dict[str, Any]:
    """Give an exception as the record keeps it: type, message, and a traceback without our own frames."""
    frames = error.__traceback__
    while frames and frames.tb_frame.f_globals.get("__name__", "").split(".")[0] in {
        "workers",
        "orchestrator",
    }:
        frames = frames.tb_next
    text = "".join(tracebacks.format_exception(type(error), error, frames))
    return {
        "type": type(error).__qualname__ if type(error).__module__ == "builtins" else exception_names(type(error))[0],
        "message": _text(error)[:MESSAGE_CHARS],
        "traceback": text if len(text) <= TRACEBACK_CHARS else "…" + text[-TRACEBACK_CHARS:],
    }


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as raised:  # the user's own __str__
        return f"(its text cannot be read: {type(raised).__qualname__})"


def _saved(process: WorkerProcess, run_id: str, step: str, attempt: int, token: int, value: Any) -> Artifact:
    try:
        return process.store.save(run_id, step, attempt, token, value)
    except OSError:
        raise  # the store's trouble, not the value's
    except Exception as error:
        raise OutputNotStored(
            f"the output, a {type(value).__qualname__}, cannot be stored: {error}. Give back plain data."
        ) from error


def _options(spec: Mapping[str, Any]) -> StepOptions:
    kept = spec.get("options")
    return StepOptions.model_validate(kept) if kept else _DEFAULT_OPTIONS


@contextmanager
def _deaf_to_time_limit() -> Iterator[None]:
    """Let the soft time limit no longer strike: the step's own work is over, and the record must be written whole."""
    if threading.current_thread() is not threading.main_thread():
        yield  # pools of threads have no time limits
        return
    handler = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, handler)


def _finish(
    process: WorkerProcess,
    run_id: str,
    claim: Claim,
    commit: Commit | Refusal,
    error: BaseException | None,
    in_s: float,
) -> End:
    if isinstance(commit, Refusal):
        return End(note=f"refused: {commit.reason}")
    dispatch(process.app, run_id, claim.pipeline, commit.ready)
    if error is None:
        return End(is_chain_going_on=commit.is_chain_going_on)
    text = f"{type(error).__qualname__}: {_text(error)}"[:MESSAGE_CHARS]
    failure = AttemptRetrying(text, in_s) if commit.state is StepState.RETRYING else AttemptFailed(text)
    return End(failure=failure, traceback=error.__traceback__)
