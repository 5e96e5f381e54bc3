"""Attempts that end without an end of their step: handed over, or put back for no fault of it."""

from __future__ import annotations

import socket

from orchestrator.artifacts.faults import HostFault, InputUnreadable, StoreUnusable
from orchestrator.ledger.states import StepState
from orchestrator.ledger.values import BackOff, Refusal, Replaced
from orchestrator.worker.child.begun import Begun, End
from orchestrator.worker.child.code_check import CodeRefused
from orchestrator.worker.endings import AttemptHindered, AttemptRetrying
from orchestrator.worker.failures import error_card
from orchestrator.worker.patience import until_answered

# The worker that met the fault takes no steps, so another one may soon try.
HOST_BACK_OFF = BackOff(1.0, 30.0)
CODE_BACK_OFF = BackOff(10.0, 300.0)  # somebody has to copy the files


def hand_over(begun: Begun) -> End:
    """Let another worker go on with the step, as the step has asked for."""
    reason, ledger, token = "the step handed over", begun.process.ledger, begun.claim.token
    replaced = until_answered(lambda: ledger.hand_over(begun.here.id, reason, token=token))
    if isinstance(replaced, Replaced):
        begun.process.dispatcher.send(begun.here.id.run_id, replaced.ready)
    return End(failure=AttemptRetrying(reason))


def put_back_for_code(begun: Begun, refused: CodeRefused) -> End:
    """Put the attempt back, whose step has not begun, because this host has other code than was
    submitted."""
    ledger, detail = begun.process.ledger, _detail(begun, str(refused))
    token = begun.claim.token
    until_answered(lambda: ledger.put_back(begun.here.id, detail, CODE_BACK_OFF, token=token))
    return End(failure=AttemptRetrying(str(refused)))


def put_back_for_host(begun: Begun, fault: HostFault) -> End:
    """Put the attempt back because of a fault of the host, and let the main process of this worker
    know."""
    # An input that cannot be read, or a log that cannot be kept, lets no step begin: it may go back
    # in any case.
    has_begun = isinstance(fault, StoreUnusable) and not isinstance(fault, InputUnreadable)
    ledger, reason = begun.process.ledger, begun.masks(str(fault))
    error = error_card(fault, begun.masks) if has_begun else None
    answer = until_answered(
        lambda: ledger.put_back(
            begun.here.id,
            _detail(begun, reason),
            HOST_BACK_OFF,
            token=begun.claim.token,
            error=error,
        )
    )
    hindrance = AttemptHindered(reason, fault.needed_bytes)
    if isinstance(answer, Refusal):
        report_alone(begun)
        return End(failure=hindrance)
    begun.process.dispatcher.send(begun.here.id.run_id, answer.ready)
    is_retried = answer.state is StepState.RETRYING
    return End(failure=AttemptRetrying(reason) if is_retried else hindrance, hindrance=hindrance)


def report_alone(begun: Begun) -> None:
    """Report that an attempt whose end does not count is gone: its step may have been cancelled."""
    detail = {"how": "it ended by itself", "worker": begun.held.worker}
    begun.process.ledger.report_stopped(begun.held, detail, ended_alone=True)


def _detail(begun: Begun, reason: str) -> dict[str, str]:
    return {"reason": reason, "host": socket.gethostname(), "worker": begun.held.worker}
