"""What became of a command."""

from __future__ import annotations

from orchestrator.record.run import RunRecord


def error_of(record: RunRecord, step: str = "command") -> str:
    """Return the message of a step's first failure."""
    error = record.steps[step].attempts[0].error
    assert error
    return error.message
