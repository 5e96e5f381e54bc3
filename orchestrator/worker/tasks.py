"""The two Celery tasks: `pipeline.step` runs an attempt, `pipeline.failure` records a failure that
Celery saw first."""

from __future__ import annotations

import os
import traceback as tracebacks
from contextlib import suppress
from typing import Any, NoReturn

from celery import Celery, Task
from celery.exceptions import Retry
from celery.utils.log import get_task_logger

from orchestrator.attempt_id import AttemptId
from orchestrator.ledger.values import OwnedAttempt, owner_of
from orchestrator.messages.names import FAILURE_TASK, STEP_TASK
from orchestrator.worker.call_clock import CallClock
from orchestrator.worker.celery_inside.requests import StepRequest
from orchestrator.worker.child.attempt import run_attempt
from orchestrator.worker.child.begun import End
from orchestrator.worker.child.step_process import prepare_for_steps
from orchestrator.worker.endings import (
    AttemptFailed,
    AttemptRetrying,
    AttemptStopped,
    MessageDropped,
    OwnFailure,
)
from orchestrator.worker.failures import error_text, report_death, report_excess, report_own_failure
from orchestrator.worker.interruption import busy, is_being_stopped, is_prefork_child
from orchestrator.worker.log_file import ship_what_is_left
from orchestrator.worker.main.running import RunningAttempt
from orchestrator.worker.masking import NO_MASKS
from orchestrator.worker.memory import exceeded_by
from orchestrator.worker.process import INCARNATION, current_process
from orchestrator.worker.strays import kill_strays

logger = get_task_logger(__name__)


def register_tasks(app: Celery) -> None:
    """Put both tasks into the app's registry."""

    @app.task(name=STEP_TASK, bind=True, Request=StepRequest, throws=(AttemptFailed,))  # type: ignore[untyped-decorator]
    def step(self: Task, run_id: str, step: str, attempt: int) -> str:
        return _step(app, self.request, AttemptId(run_id, step, attempt))

    # Three arguments, so that Celery calls it in line, in the process that saw the failure.
    @app.task(name=FAILURE_TASK)  # type: ignore[untyped-decorator]
    def failure(request: Any, exc: BaseException, traceback: Any) -> None:
        # not there in a child, where our own code has failed
        if attempt := getattr(request, "attempt_that_ended", None):
            _report_death(app, attempt, exc)


def _step(app: Celery, request: Any, attempt: AttemptId) -> str:
    chain = request.chain
    follower = chain[-1]["kwargs"] if chain else {}
    request.chain = None  # goes on only when the ledger says so
    worker = request.hostname or ""
    request.errbacks = None  # the failure callback is for failures that only Celery sees
    prepare_for_steps(app)  # done already in the child of a prefork pool
    with busy(attempt), CallClock(attempt, is_shared=is_prefork_child()):
        try:
            after = follower.get("step", ""), follower.get("attempt", 0)
            end = run_attempt(current_process(app), attempt, worker, after)
        except Exception as raised:
            # As text: any process can read it, and Celery would end the whole worker for a
            # MemoryError.
            held = OwnedAttempt(attempt, owner_of(worker, INCARNATION, os.getpid()))
            raise AttemptFailed(_own_failure(app, held, raised)) from None
    if end.failure:
        _raise_failure(attempt, end)
    if end.is_dropped:
        raise MessageDropped(end.note)
    if end.is_refused:
        raise AttemptStopped(end.note)
    if end.is_chain_going_on:
        request.chain = chain
    return end.note


def _raise_failure(attempt: AttemptId, end: End) -> NoReturn:
    failure = end.failure
    assert failure is not None
    how = {AttemptRetrying: "is retried", AttemptStopped: "was stopped"}
    logger.warning(
        "run %s: step %s %s at attempt %s: %s",
        attempt.run_id,
        attempt.step,
        how.get(type(failure), "failed"),
        attempt.attempt,
        failure,
    )
    if isinstance(failure, AttemptRetrying):
        met = end.hindrance or AttemptFailed(str(failure))
        raise Retry(str(failure), exc=met, when=failure.in_s)
    raise failure.with_traceback(end.traceback) from None


def _report_death(app: Celery, attempt: RunningAttempt, error: BaseException) -> None:
    kill_strays()  # before another attempt begins
    excess = exceeded_by(attempt.pid)
    if attempt.stop_reason:
        return  # the process that stopped it reports to the ledger
    process = current_process(app)
    with suppress(Exception):  # a log is less than the record of the death
        limit = process.settings.log_lines_per_attempt
        ship_what_is_left(attempt.log, attempt.held, process.ledger, limit)
    if excess:
        report_excess(process, attempt.held, excess)
    else:
        report_death(process, attempt.held, attempt.pid, error)


def _own_failure(app: Celery, held: OwnedAttempt, raised: Exception) -> str:
    """Report to the ledger that our own code failed at an attempt, unless who stops the attempt
    does; gives it as text.

    If the ledger cannot be reached, the attempt is over when its lease runs out.
    """
    try:
        masks = raised.masks if isinstance(raised, OwnFailure) else NO_MASKS
        error = (raised.__cause__ or raised) if isinstance(raised, OwnFailure) else raised
        text = (
            f"the worker's own code failed: {type(error).__qualname__}: {error_text(error, masks)}"
        )
        # not as exc_info, which nobody masks
        shown = masks("".join(tracebacks.format_exception(error)))
        logger.error("run %s: step %s: %s\n%s", held.run_id, held.step, text, shown)
        if not is_being_stopped(held.id):
            report_own_failure(current_process(app), held, error, masks)
    except Exception as failed:
        return (
            f"the worker's own code failed, and so did recording that: {type(failed).__qualname__}"
        )
    return text
