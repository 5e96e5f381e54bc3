"""The life of one attempt, stage by stage: claim, inputs, call, outputs, commit.

Each stage is a file of `stages/`. What comes between two of them (a look into a cache, a place
under a limit, a gang that gathers) is a stage of its own in the list here.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextvars import copy_context

from orchestrator.artifacts.faults import HostFault
from orchestrator.attempt_context import StopRequested, attempt_context
from orchestrator.attempt_id import AttemptId
from orchestrator.worker.call_clock import end_call
from orchestrator.worker.child.around_steps import process_held
from orchestrator.worker.child.begun import Begun, End
from orchestrator.worker.child.stages.call import call_step
from orchestrator.worker.child.stages.claim import claim_attempt
from orchestrator.worker.child.stages.commit import end_otherwise, succeed
from orchestrator.worker.child.stages.inputs import load_inputs
from orchestrator.worker.child.stages.outputs import save_output
from orchestrator.worker.child.user_surroundings import user_surroundings
from orchestrator.worker.endings import AttemptStopped, OwnFailure
from orchestrator.worker.interruption import interruptible, is_asked_in_thread, is_prefork_child
from orchestrator.worker.own_descriptors import end_if_closed
from orchestrator.worker.process import WorkerProcess

Stage = Callable[[Begun], None]

WITH_USER_CODE: tuple[Stage, ...] = (load_inputs, call_step)
AFTER_CALL: tuple[Stage, ...] = (save_output,)


def run_attempt(
    process: WorkerProcess, attempt: AttemptId, worker: str, follower: tuple[str, int]
) -> End:
    """Run one attempt. A refused claim is a quiet end: the message was a duplicate.

    Raise OwnFailure for an error of our own code once the attempt is claimed; before that, as it
    is.
    """
    begun = claim_attempt(process, attempt, worker, follower)
    if isinstance(begun, End):
        return begun
    try:
        error = _error_of_stages(begun)
        if is_asked_in_thread(attempt):
            return End(failure=AttemptStopped("the attempt was stopped"))
        return succeed(begun) if error is None else end_otherwise(begun, error)
    except Exception as error:
        raise OwnFailure(begun.masks) from error


def _error_of_stages(begun: Begun) -> BaseException | None:
    """Go through the stages, and return what ended one of them, KeyboardInterrupt and SystemExit
    included.

    Inputs are loaded and the output is saved under the same capture of what is printed.
    """
    error: BaseException | None = None
    pid, here = os.getpid(), begun.here
    is_only = threading.current_thread() is threading.main_thread()
    try:
        with begun.process.capture.attempt(here.id, begun.claim.token, begun.masks):
            try:
                with (
                    process_held(here.id),
                    attempt_context(here, is_only=is_only),
                    interruptible(),
                ):
                    copy_context().run(_run_with_user_code, begun)
                    end_call()
                    for stage in AFTER_CALL:
                        stage(begun)
            except BaseException as raised:
                error = raised
                if not isinstance(raised, StopRequested):
                    # of a timeout: its caller waits for what the step has started
                    end_call()
            if os.getpid() != pid:
                # a process that the step forked and let return: it must not commit for its parent
                os._exit(0)
            if is_prefork_child():
                end_if_closed()
    except HostFault as raised:  # of the capture: the step has not begun
        error = raised
    return error


def _run_with_user_code(begun: Begun) -> None:
    with user_surroundings(begun.claim):
        for stage in WITH_USER_CODE:
            stage(begun)
