"""For which steps a step waits, and at which the waiting comes to an end."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from orchestrator.ledger.states import StepState
from orchestrator.record.run import RunRecord, StepRecord


def awaited_steps(record: RunRecord, step: StepRecord) -> list[str]:
    """Return the upstreams of a step that have not ended."""
    return [
        upstream
        for upstream in step.upstream
        if upstream in record.steps and not record.steps[upstream].state.is_ended
    ]


def roots_of(record: RunRecord, awaited: Sequence[str]) -> list[str]:
    """Return the steps at which the waiting for these comes to an end: they are queued, running or
    retrying."""
    roots, ahead, seen = [], deque(awaited), set(awaited)
    while ahead:
        name = ahead.popleft()
        step = record.steps[name]
        if step.state is not StepState.WAITING:
            roots.append(name)
            continue
        further = [other for other in awaited_steps(record, step) if other not in seen]
        seen.update(further)
        ahead += further
    return roots
