"""The last stage: the ledger records how the attempt ended, and sending what became ready."""

from __future__ import annotations

import os
import shutil
from typing import Any

from orchestrator.artifacts.layout import checkpoint_folder
from orchestrator.attempt_context import HandedOver, StopRequested
from orchestrator.ledger.entries import CallKind
from orchestrator.ledger.states import Outcome, StepState
from orchestrator.ledger.values import Refusal
from orchestrator.processes.tree import ProcessTree
from orchestrator.worker.child.begun import Begun, End
from orchestrator.worker.child.code_check import CodeRefused
from orchestrator.worker.child.host_faults import host_fault_behind
from orchestrator.worker.child.stages.giving_back import (
    hand_over,
    put_back_for_code,
    put_back_for_host,
    report_alone,
)
from orchestrator.worker.endings import AttemptFailed, AttemptRetrying, AttemptStopped
from orchestrator.worker.failures import MESSAGE_CHARS, Failure, error_text, options_of
from orchestrator.worker.interruption import should_stop
from orchestrator.worker.patience import until_answered


def succeed(begun: Begun) -> End:
    """Commit the success, and drop the checkpoints: if the step is ever run again, it begins
    anew."""
    process, here, token = begun.process, begun.here, begun.claim.token
    ran, to_record = _code_ran(begun)
    commit = until_answered(
        lambda: process.ledger.commit(
            here.id,
            token,
            here.worker,
            Outcome.SUCCEEDED,
            output=begun.output,
            follower=begun.follower,
            detail=ran,
            code=to_record,
        )
    )
    if isinstance(commit, Refusal):
        return _refused(begun, commit)
    process.dispatcher.send(here.id.run_id, commit.ready)
    if here.has_checkpoints or here.id.attempt > 1:
        root = process.settings.artifact_root
        folder = checkpoint_folder(root, here.id.run_id, here.id.step)
        shutil.rmtree(folder, ignore_errors=True)
    return End(is_chain_going_on=commit.is_chain_going_on)


def end_otherwise(begun: Begun, error: BaseException) -> End:
    """End an attempt that has no output: stopped, handed over, put back, or failed by what its step
    raised."""
    process = begun.process
    if isinstance(error, StopRequested) and not error.is_timeout:
        # the process that asked for it reports to the ledger
        return End(failure=AttemptStopped("the attempt was stopped"))
    if isinstance(error, HandedOver):
        return hand_over(begun)
    if isinstance(error, CodeRefused):
        return put_back_for_code(begun, error)
    root = process.settings.artifact_root
    if fault := host_fault_behind(error, begun.here, process.store, root):
        return put_back_for_host(begun, fault)
    if isinstance(error, StopRequested):
        # our worker ends what the step had started; before that no retry may begin
        ProcessTree(os.getpid()).wait()
    return _fail(begun, error)


def _fail(begun: Begun, error: BaseException) -> End:
    claim, here = begun.claim, begun.here
    number = here.id.attempt - claim.uncounted
    failure = Failure.of(error, options_of(claim.spec), number)
    words = failure.for_commit(begun.masks)
    ran, to_record = _code_ran(begun)
    words["detail"] |= ran
    commit = until_answered(
        lambda: begun.process.ledger.commit(
            here.id, claim.token, here.worker, failure.outcome, code=to_record, **words
        )
    )
    if isinstance(commit, Refusal):
        return _refused(begun, commit)
    begun.process.dispatcher.send(here.id.run_id, commit.ready)
    error = failure.error
    text = f"{type(error).__qualname__}: {error_text(error, begun.masks)}"[:MESSAGE_CHARS]
    if commit.state is StepState.RETRYING:
        ended: AttemptFailed = AttemptRetrying(text, failure.retry_in_s or 0.0)
    else:
        ended = AttemptFailed(text)
    return End(failure=ended, traceback=error.__traceback__)


def _refused(begun: Begun, refusal: Refusal) -> End:
    if not should_stop(begun.here.id):  # else who asked for it reports it, once all of it is gone
        report_alone(begun)
    return End(note=f"refused: {refusal.reason}", is_refused=True)


def _code_ran(begun: Begun) -> tuple[dict[str, Any], tuple[str, str] | None]:
    """Return what the end of an attempt says of its code, and the digests that are still to be kept
    with the run."""
    if begun.claim.spec.kind is CallKind.SHELL:
        return {}, None
    return begun.code.as_detail(), begun.code.to_record()
