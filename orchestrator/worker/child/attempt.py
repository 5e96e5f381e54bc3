"""The life of one attempt: claim, load the inputs, run the step, save the output, commit, dispatch
what is ready."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import threading
from contextvars import copy_context
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from orchestrator.artifacts.faults import HostFault, InputUnreadable, StoreUnusable
from orchestrator.artifacts.outputs import encode_output
from orchestrator.artifacts.store import Artifact
from orchestrator.attempt_context import Attempt, HandedOver, StopRequested, attempt_context
from orchestrator.errors import OutputNotStored
from orchestrator.ledger.entries import CallKind
from orchestrator.ledger.states import Outcome, StepState
from orchestrator.ledger.values import BackOff, Claim, Commit, Held, Refusal, Replaced, owner_of
from orchestrator.processes.tree import ProcessTree
from orchestrator.wording import punctuated
from orchestrator.worker.call_clock import current_clock
from orchestrator.worker.child.around_steps import process_held
from orchestrator.worker.child.calls import call_step, code_check
from orchestrator.worker.child.code_check import CodeCheck, CodeRefused
from orchestrator.worker.child.host_faults import host_fault_behind
from orchestrator.worker.endings import (
    AttemptFailed,
    AttemptHindered,
    AttemptRetrying,
    AttemptStopped,
    OwnFailure,
)
from orchestrator.worker.failures import MESSAGE_CHARS, Failure, error_card, error_text, options_of
from orchestrator.worker.interruption import (
    interruptible,
    is_asked_in_thread,
    is_prefork_child,
    should_stop,
)
from orchestrator.worker.masking import NO_MASKS, Masks
from orchestrator.worker.own_descriptors import end_if_closed
from orchestrator.worker.patience import until_answered
from orchestrator.worker.process import INCARNATION, WorkerProcess

# the worker that met the fault takes no steps, so another one may soon try
HOST_BACK_OFF = BackOff(1.0, 30.0)

CODE_BACK_OFF = BackOff(10.0, 300.0)  # somebody has to copy the files

_claim_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class End:
    """How an attempt went, for Celery. `is_dropped`: nothing was run; `is_refused`: what was run
    does not count."""

    note: str = ""
    failure: AttemptFailed | None = None
    traceback: TracebackType | None = None
    is_chain_going_on: bool = False
    hindrance: AttemptHindered | None = None
    is_dropped: bool = False
    is_refused: bool = False


def run_attempt(
    process: WorkerProcess,
    run_id: str,
    step: str,
    attempt: int,
    worker: str,
    follower: tuple[str, int],
) -> End:
    """Run one attempt, from claim to dispatch. A refused claim is a quiet end: the message was a
    duplicate.

    Raise OwnFailure for an error of our own code once the attempt is claimed; before that, as it
    is.
    """
    pid = os.getpid()
    claim_id = f"{INCARNATION}.{pid}.{next(_claim_numbers)}"
    claim = process.ledger.claim(run_id, step, attempt, claim_id, worker, process.settings.lease_s)
    if isinstance(claim, Refusal):
        return End(note=f"dropped: {claim.reason}", is_dropped=True)

    held, masks = Held(run_id, step, attempt, owner_of(worker, INCARNATION, pid)), _masks_of(claim)
    try:
        return _run_claimed(process, claim, held, worker, follower, masks)
    except Exception as error:
        raise OwnFailure(masks) from error


def _run_claimed(
    process: WorkerProcess,
    claim: Claim,
    held: Held,
    worker: str,
    follower: tuple[str, int],
    masks: Masks,
) -> End:
    run_id, step, attempt = held.run_id, held.step, held.attempt
    here = Attempt(
        run_id, step, attempt, claim.token, worker,
        lambda: process.store.make_folder(process.settings.checkpoint_dir(run_id, step)),
        lambda: should_stop(run_id, step, attempt),
    )  # fmt: skip
    begun = _Begun(process, claim, held, here, code_check(process, run_id, claim), masks)
    output, error = _run_step(begun)

    if is_asked_in_thread(run_id, step, attempt):
        return End(failure=AttemptStopped("the attempt was stopped"))
    if error is None:
        return _succeed(begun, output, follower)
    return _end_otherwise(begun, error)


@dataclass(frozen=True, slots=True)
class _Begun:
    """An attempt that holds its claim."""

    process: WorkerProcess
    claim: Claim
    held: Held
    here: Attempt
    code: CodeCheck
    masks: Masks


def _masks_of(claim: Claim) -> Masks:
    return Masks(claim.secrets.values()) if claim.secrets else NO_MASKS


def _run_step(begun: _Begun) -> tuple[str, BaseException | None]:
    """Return the output in the wire form, or what ended the step instead, KeyboardInterrupt and
    SystemExit among it.

    Inputs are loaded and the output is saved here too, under the same capture of what is printed.
    """
    process, claim, here = begun.process, begun.claim, begun.here
    pid, output, error = os.getpid(), "", None
    is_only = threading.current_thread() is threading.main_thread()
    try:
        with process.capture.attempt(
            here.run_id, here.step, here.attempt, claim.token, begun.masks
        ):
            try:
                with (
                    process_held(here.run_id, here.step),
                    attempt_context(here, is_only=is_only),
                    interruptible(),
                ):
                    value = copy_context().run(call_step, claim, process.store, begun.code)
                    _end_call()
                    output = encode_output(
                        value,
                        process.settings.inline_output_bytes,
                        lambda value: _saved(
                            process, here.run_id, here.step, here.attempt, claim.token, value
                        ),
                        claim.secrets,
                    )
            except BaseException as raised:
                error = raised
                if not isinstance(raised, StopRequested):
                    # of a timeout: who asked waits for what the step has started
                    _end_call()
            if os.getpid() != pid:
                # a process that the step forked and let return: it must not commit for its parent
                os._exit(0)
            if is_prefork_child():
                end_if_closed()
    except HostFault as raised:  # of the capture: the step has not begun
        error = raised
    return output, error


def _succeed(begun: _Begun, output: str, follower: tuple[str, int]) -> End:
    """Commit the success, and drop the checkpoints: if the step is ever run again, it begins
    anew."""
    process, claim, here = begun.process, begun.claim, begun.here
    ran, to_record = _code_ran(claim, begun.code)
    commit = until_answered(
        lambda: process.ledger.commit(
            here.run_id,
            here.step,
            here.attempt,
            claim.token,
            here.worker,
            Outcome.SUCCEEDED,
            output=output,
            follower=follower,
            detail=ran,
            code=to_record,
        )
    )
    end = _finish(process, claim, begun.held, commit, None, 0.0)
    if isinstance(commit, Commit) and (here.has_checkpoints or here.attempt > 1):
        shutil.rmtree(process.settings.checkpoint_dir(here.run_id, here.step), ignore_errors=True)
    return end


def _end_otherwise(begun: _Begun, error: BaseException) -> End:
    """End an attempt that has no output: stopped, handed over, put back, or failed by what its step
    raised."""
    process, claim, held, here, masks = (
        begun.process,
        begun.claim,
        begun.held,
        begun.here,
        begun.masks,
    )
    if isinstance(error, StopRequested) and not error.is_timeout:
        # who asked for it tells the ledger
        return End(failure=AttemptStopped("the attempt was stopped"))
    if isinstance(error, HandedOver):
        return _hand_over(process, claim, held)
    if isinstance(error, CodeRefused):
        return _refuse(process, claim, held, error)
    if fault := host_fault_behind(error, here, process.store, process.settings.artifact_root):
        return _put_back(process, claim, held, fault, masks)
    if isinstance(error, StopRequested):
        ProcessTree(
            os.getpid()
        ).wait()  # our worker ends what the step had started; before that no retry may begin
    failure = Failure.of(error, options_of(claim.spec), held.attempt - claim.uncounted)
    words = failure.for_commit(masks)
    ran, to_record = _code_ran(claim, begun.code)
    words["detail"] |= ran
    commit = until_answered(
        lambda: process.ledger.commit(
            held.run_id,
            held.step,
            held.attempt,
            claim.token,
            here.worker,
            failure.outcome,
            code=to_record,
            **words,
        )
    )
    return _finish(process, claim, held, commit, failure.error, failure.retry_in_s or 0.0, masks)


def _hand_over(process: WorkerProcess, claim: Claim, held: Held) -> End:
    reason = "the step handed over"
    replaced = until_answered(
        lambda: process.ledger.hand_over(
            held.run_id, held.step, held.attempt, reason, token=claim.token
        )
    )
    if isinstance(replaced, Replaced):
        process.dispatcher.send(held.run_id, replaced.ready)
    return End(failure=AttemptRetrying(reason))


def _end_call() -> None:
    if clock := current_clock():
        clock.end()


def _saved(
    process: WorkerProcess, run_id: str, step: str, attempt: int, token: int, value: Any
) -> Artifact:
    try:
        return process.store.save(run_id, step, attempt, token, value)
    except (HostFault, OSError):
        raise  # the store's trouble, not the value's
    except Exception as error:
        raise OutputNotStored(
            f"the output, a {type(value).__qualname__}, cannot be stored: {punctuated(error)} Give"
            " back plain data."
        ) from error


def _code_ran(claim: Claim, code: CodeCheck) -> tuple[dict[str, Any], tuple[str, str] | None]:
    """Return what the end of an attempt says of its code, and the digests that are still to be kept
    with the run."""
    return ({}, None) if claim.spec.kind is CallKind.SHELL else (code.told(), code.to_record())


def _refuse(process: WorkerProcess, claim: Claim, held: Held, refused: CodeRefused) -> End:
    """Put the attempt back, whose step has not begun, because this host has other code than was
    submitted."""
    detail = {
        "reason": str(refused),
        "host": socket.gethostname(),
        "worker": held.owner.partition(" ")[0],
    }
    until_answered(
        lambda: process.ledger.put_back(
            held.run_id, held.step, held.attempt, detail, CODE_BACK_OFF, token=claim.token
        )
    )
    return End(failure=AttemptRetrying(str(refused)))


def _put_back(
    process: WorkerProcess, claim: Claim, held: Held, fault: HostFault, masks: Masks
) -> End:
    """Put the attempt back because of a fault of the host, and let the main process of this worker
    know."""
    worker = held.owner.partition(" ")[0]
    # An input that cannot be read, or a log that cannot be kept, lets no step begin: it may go back
    # in any case.
    has_begun = isinstance(fault, StoreUnusable) and not isinstance(fault, InputUnreadable)
    reason = masks(str(fault))
    detail = {"reason": reason, "host": socket.gethostname(), "worker": worker}
    error = error_card(fault, masks) if has_begun else None
    answer = until_answered(
        lambda: process.ledger.put_back(
            held.run_id,
            held.step,
            held.attempt,
            detail,
            HOST_BACK_OFF,
            token=claim.token,
            error=error,
        )
    )
    hindrance = AttemptHindered(reason, fault.needed_bytes)
    if isinstance(answer, Refusal):
        process.ledger.report_stopped(
            held, {"how": "it ended by itself", "worker": worker}, ended_alone=True
        )
        return End(failure=hindrance)
    process.dispatcher.send(held.run_id, answer.ready)
    is_retried = answer.state is StepState.RETRYING
    return End(failure=AttemptRetrying(reason) if is_retried else hindrance, hindrance=hindrance)


def _finish(
    process: WorkerProcess,
    claim: Claim,
    held: Held,
    commit: Commit | Refusal,
    error: BaseException | None,
    in_s: float,
    masks: Masks = NO_MASKS,
) -> End:
    if isinstance(commit, Refusal):
        if not should_stop(held.run_id, held.step, held.attempt):
            # else who asked for it tells, once all of it is gone
            worker = held.owner.partition(" ")[0]
            process.ledger.report_stopped(
                held, {"how": "it ended by itself", "worker": worker}, ended_alone=True
            )
        return End(note=f"refused: {commit.reason}", is_refused=True)
    process.dispatcher.send(held.run_id, commit.ready)
    if error is None:
        return End(is_chain_going_on=commit.is_chain_going_on)
    text = f"{type(error).__qualname__}: {error_text(error, masks)}"[:MESSAGE_CHARS]
    failure = (
        AttemptRetrying(text, in_s) if commit.state is StepState.RETRYING else AttemptFailed(text)
    )
    return End(failure=failure, traceback=error.__traceback__)
