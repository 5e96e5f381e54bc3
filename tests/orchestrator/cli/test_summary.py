"""A run told to a person."""

from __future__ import annotations

import pytest

from orchestrator.cli.summary import summary_text
from orchestrator.error_card import ErrorCard
from orchestrator.ledger.entries import StepSpec
from orchestrator.ledger.states import Outcome, RunState, StepState
from orchestrator.record.run import AttemptRecord, RunRecord, StepRecord


def test_the_command_to_look_closer_can_be_pasted_into_any_shell() -> None:
    steps = {"fit[0]": StepRecord(StepState.FAILED)}
    record = RunRecord("run", "pipeline", RunState.FAILED, {}, 0, 0, 1, None, steps, {})

    assert "orchestrator logs run 'fit[0]'" in summary_text(record, {}).splitlines()[-2]


def test_a_run_that_can_go_on_ends_with_the_command_that_lets_it() -> None:
    for state in (RunState.FAILED, RunState.CANCELLED):
        record = RunRecord("run", "pipeline", state, {}, 0, 0, 1, None, {}, {})
        assert summary_text(record, {}).splitlines()[-1] == "go on with: orchestrator resume run"
    record = RunRecord("run", "pipeline", RunState.SUCCEEDED, {}, 0, 0, 1, None, {}, {})
    assert "resume" not in summary_text(record, {})


def test_a_run_that_was_resumed_tells_the_time_since_then_and_what_was_mended() -> None:
    steps = {
        "a": StepRecord(
            StepState.CANCELLED, attempts=[attempt(how="it ended when asked", after_s=0.25)]
        ),
        "b": StepRecord(StepState.UPSTREAM_FAILED, because="a"),
    }
    record = RunRecord(
        "run",
        "pipeline",
        RunState.CANCELLED,
        {},
        0,
        0,
        90_000_000,
        "enough",
        steps,
        {},
        2,
        3,
        60_000_000,
    )

    assert summary_text(record, {}).splitlines() == [
        (
            "run run cancelled 30.0 s after it was resumed for the 3rd time: 1 cancelled, 1"
            " upstream_failed"
        ),
        "  reason: enough",
        "  a stopped after 0.2 s: it ended when asked",
        "  the safety net caught 2 things: orchestrator events run",
        "  not run, because a was cancelled: b",
        "go on with: orchestrator resume run",
    ]


def attempt(**stopped: object) -> AttemptRecord:
    return AttemptRecord(1, 0, "w", 0, 1, Outcome.CANCELLED, None, {**stopped, "at_us": 1})


SPECS = {"fit": StepSpec("cpu", options={"retries": 2}), "plain": StepSpec("cpu")}
ONCE_MORE = "failed after 1 attempt since it was resumed (retries=0)"


@pytest.mark.parametrize(
    ("name", "attempts", "told"),
    [
        ("plain", [(0, "failed"), (1, "failed"), (2, "failed")], ONCE_MORE),
        ("plain", [(2, "failed")], "failed"),  # added by the last resume
        ("plain", [(2, "lost"), (2, "handed_over"), (2, "failed")], "failed"),
        ("plain", [(0, "failed"), (2, "timed_out")], ONCE_MORE.replace("failed", "timed_out")),
        (
            "plain",
            [(0, "lost"), (2, "lost"), (2, "lost")],
            "lost after 2 attempts since it was resumed",
        ),
        ("fit", [(2, "failed")] * 3, "failed after 3 attempts"),
        (
            "fit",
            [(2, "failed"), (2, "lost"), (2, "failed"), (2, "failed")],
            "failed after 3 attempts",
        ),
        ("fit", [(2, "failed")], "failed after 1 of 3 attempts"),  # never_retry_on
        (
            "fit",
            [(0, "failed")] * 3 + [(2, "failed")] * 3,
            "failed after 3 attempts since it was resumed (retries=2)",
        ),
        (
            "fit",
            [(0, "cancelled"), (2, "failed")],
            "failed after 1 of 3 attempts since it was resumed",
        ),
    ],
)
def test_attempts_are_counted_since_the_last_resume_and_the_budget_is_named(
    name, attempts, told
) -> None:
    error = ErrorCard("E", "m")
    made = [
        AttemptRecord(number, 0, "w", 0, 1, Outcome(outcome), error, resumes=resumes, began_place=1)
        for number, (resumes, outcome) in enumerate(attempts, 1)
    ]
    steps = {name: StepRecord(StepState.FAILED, attempts=made)}
    record = RunRecord(
        "run", "p", RunState.FAILED, {}, 0, 0, 1, None, steps, {}, 0, 2, 0, specs=SPECS
    )

    assert f"  {name} {told}: E: m" in summary_text(record, {}).splitlines()
