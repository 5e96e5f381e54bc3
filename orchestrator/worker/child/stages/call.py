"""The third stage: the call of the step's own code."""

from __future__ import annotations

from orchestrator.ledger.entries import CallKind
from orchestrator.worker.call_clock import counted
from orchestrator.worker.child.begun import Begun


def call_step(begun: Begun) -> None:
    """Call the function or run the command. Whatever the step raises passes through."""
    assert begun.call is not None
    if begun.claim.spec.kind is CallKind.SHELL:
        begun.value = begun.call()  # which counts the time of the command alone
        return
    with counted():
        begun.value = begun.call()
