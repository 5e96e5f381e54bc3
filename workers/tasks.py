"""The two Celery tasks: `pipeline.step` runs an attempt, `pipeline.failure` records a failure that Celery saw first."""

from __future__ import annotations

from typing import Any

from celery import Celery, Task
from celery.exceptions import Retry
from celery.utils.log import get_task_logger

from orchestrator.messages.signatures import FAILURE_TASK, STEP_TASK
from workers.attempt import AttemptFailed, AttemptRetrying, AttemptStopped, run_attempt
from workers.failures import report_death
from workers.interruption import busy
from workers.process import current_process
from workers.requests import StepRequest
from workers.strays import kill_strays

logger = get_task_logger(__name__)


def register_tasks(app: Celery) -> None:
    """Put both tasks into the app's registry."""

    @app.task(name=STEP_TASK, bind=True, Request=StepRequest, throws=(AttemptFailed,))  # type: ignore[untyped-decorator]
    def step(self: Task, run_id: str, step: str, attempt: int) -> str:
        request = self.request
        chain = request.chain
        follower = chain[-1]["kwargs"] if chain else {}
        request.chain = None  # goes on only when the ledger says so
        with busy():
            end = run_attempt(
                current_process(app), run_id, step, attempt, request.hostname or "",
                (follower.get("step", ""), follower.get("attempt", 0)),
            )  # fmt: skip
        request.errbacks = None  # the failure callback is for failures that only Celery saw
        if end.failure:
            how = {AttemptRetrying: "is retried", AttemptStopped: "was stopped"}.get(type(end.failure), "failed")
            logger.warning("run %s: step %s %s at attempt %s: %s", run_id, step, how, attempt, end.failure)
        if isinstance(end.failure, AttemptRetrying):
            raise Retry(str(end.failure), exc=AttemptFailed(str(end.failure)), when=end.failure.in_s)
        if end.failure:
            raise end.failure.with_traceback(end.traceback) from None
        if end.is_chain_going_on:
            request.chain = chain
        return end.note

    # Three arguments, so that Celery calls it in line, in the process that saw the failure.
    @app.task(name=FAILURE_TASK)  # type: ignore[untyped-decorator]
    def failure(request: Any, exc: BaseException, traceback: Any) -> None:
        attempt = request.attempt_that_ended
        if attempt is None:
            return
        kill_strays()  # before another attempt begins
        if attempt.stop_reason:
            return  # who stopped it tells the ledger
        report_death(current_process(app), attempt.held, attempt.pid, exc)
