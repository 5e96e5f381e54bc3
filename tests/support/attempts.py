"""Claims, and attempts that are lost."""

from __future__ import annotations

from orchestrator.attempt_id import AttemptId
from orchestrator.ledger.events import Event
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.values import (
    Claim,
    OwnedAttempt,
    Replaced,
)

GONE = {
    "error": {"type": "ProcessLost", "message": "killed by signal 9", "traceback": ""},
    "found": "process 7 is gone",
}


def claim(
    ledger: Ledger, run_id: str, step: str, attempt: int, owner: str, lease_s: float = 60.0
) -> Claim:
    """Claim for one process of a worker."""
    worker, _, process = owner.partition(" ")
    answer = ledger.claim(AttemptId(run_id, step, attempt), f"{process}{attempt}", worker, lease_s)
    assert isinstance(answer, Claim), answer
    return answer


def lapse(ledger: Ledger, run_id: str, step: str, attempt: int = 1, owner: str = "w") -> None:
    """Let the lease of an attempt run out."""
    ledger.renew([OwnedAttempt(AttemptId(run_id, step, attempt), owner)], 0.0)


def lose(ledger: Ledger, run_id: str, step: str, attempt: int, **shown) -> Replaced:
    answer = ledger.report_lost(AttemptId(run_id, step, attempt), GONE, **(shown or {"owner": "w"}))
    assert isinstance(answer, Replaced), answer
    return answer


def last_event(ledger: Ledger, run_id: str, event: str) -> Event:
    return [it for it in ledger.events(run_id) if it.kind == event][-1]
