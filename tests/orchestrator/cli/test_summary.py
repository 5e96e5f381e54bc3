"""A run told to a person."""

from __future__ import annotations

from orchestrator.cli.summary import summary_text
from orchestrator.ledger.record import RunRecord, StepRecord
from orchestrator.ledger.states import RunState, StepState


def test_the_command_to_look_closer_can_be_pasted_into_any_shell() -> None:
    steps = {"fit[0]": StepRecord(StepState.FAILED)}
    record = RunRecord("run", "pipeline", RunState.FAILED, {}, 0, 0, 1, None, steps, {})

    assert summary_text(record, {}).endswith("orchestrator logs run 'fit[0]'")
