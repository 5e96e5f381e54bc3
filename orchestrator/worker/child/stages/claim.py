"""The first stage: asking the ledger for the attempt."""

from __future__ import annotations

import itertools
import os

from orchestrator.artifacts.layout import checkpoint_folder
from orchestrator.attempt_context import Attempt
from orchestrator.attempt_id import AttemptId
from orchestrator.ledger.values import OwnedAttempt, Refusal, owner_of
from orchestrator.worker.child.begun import Begun, End
from orchestrator.worker.child.user_surroundings import code_check
from orchestrator.worker.endings import OwnFailure
from orchestrator.worker.interruption import should_stop
from orchestrator.worker.masking import NO_MASKS, Masks
from orchestrator.worker.process import INCARNATION, WorkerProcess

_claim_numbers = itertools.count(1)


def claim_attempt(
    process: WorkerProcess, attempt: AttemptId, worker: str, follower: tuple[str, int]
) -> Begun | End:
    """Claim an attempt for this process; its end when it may not begin. Raise OwnFailure for an
    error of our own code once it is claimed."""
    pid = os.getpid()
    claim_id = f"{INCARNATION}.{pid}.{next(_claim_numbers)}"
    claim = process.ledger.claim(attempt, claim_id, worker, process.settings.lease_s)
    if isinstance(claim, Refusal):
        return End(note=f"dropped: {claim.reason}", is_dropped=True)
    masks = Masks(claim.secrets.values()) if claim.secrets else NO_MASKS
    root = process.settings.artifact_root
    checkpoints = checkpoint_folder(root, attempt.run_id, attempt.step)
    try:
        return Begun(
            process,
            claim,
            OwnedAttempt(attempt, owner_of(worker, INCARNATION, pid)),
            Attempt(
                attempt,
                claim.token,
                worker,
                lambda: process.store.files.make_folder(checkpoints),
                lambda: should_stop(attempt),
            ),
            code_check(process, attempt.run_id, claim),
            masks,
            follower,
        )
    except Exception as error:
        raise OwnFailure(masks) from error
