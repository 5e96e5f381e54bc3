"""What the stages of an attempt share, and how the attempt ends for Celery."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from orchestrator.attempt_context import Attempt
from orchestrator.ledger.values import Claim, OwnedAttempt
from orchestrator.worker.child.code_check import CodeCheck
from orchestrator.worker.endings import AttemptFailed, AttemptHindered
from orchestrator.worker.masking import Masks
from orchestrator.worker.process import WorkerProcess


@dataclass(slots=True)
class Begun:
    """An attempt that holds its claim. Each stage reads what those before it have written.

    `call` is the step's call with its inputs, `value` what it returned, `output` that value in the
    wire form.
    """

    process: WorkerProcess
    claim: Claim
    held: OwnedAttempt
    here: Attempt
    code: CodeCheck
    masks: Masks
    follower: tuple[str, int]
    call: Callable[[], Any] | None = None
    value: Any = None
    output: str = ""


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
