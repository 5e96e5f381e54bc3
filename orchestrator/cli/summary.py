"""A run for people: how it ended, what failed and why, what did not run because of it, where
to look."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.artifacts.plain import shown_output
from orchestrator.error_card import error_line
from orchestrator.ledger.states import Outcome, RunState, StepState
from orchestrator.record.run import AttemptRecord, RunRecord
from orchestrator.times import duration_text
from orchestrator.wording import LINE_CHARS, and_more, counted, listed

if TYPE_CHECKING:
    from orchestrator.runs.surroundings import Unserved

LOG_LINES = 5
FAILURES = 10
RESULTS = 5
STOPPED = 10
SKIP_REASON = (  # the step it is "because" of may well have succeeded
    "its trigger rule cannot come true"
)


def summary_text(record: RunRecord, logs: Mapping[str, Sequence[str]]) -> str:
    """Return the summary; `logs` holds the log lines of the failed steps' last attempts."""
    counts = Counter(step.state for step in record.steps.values())
    shown = (
        ", ".join(f"{count:,} {state.value}" for state, count in counts.most_common()) or "no steps"
    )
    lines = [
        f"run {record.run_id} {record.state.value} {_took(record)}: {shown}{_taken_over(record)}"
    ]
    if record.cancel_reason:
        lines.append(f"  reason: {record.cancel_reason}")
    lines += _stopped_attempts(record)
    if record.repairs:
        lines.append(repairs_text(record))
    if record.state is RunState.SUCCEEDED:
        lines += _results(record)
    failed = [name for name, step in record.steps.items() if step.state is StepState.FAILED]
    for name in failed[:FAILURES]:
        lines += _failure(record, name, logs.get(name, ()))
    if len(failed) > FAILURES:
        lines.append(f"  …{and_more(len(failed) - FAILURES, 'failed steps')}")
    lines += _not_run(record)
    if record.state is RunState.FAILED:
        example = f" {shlex.quote(failed[0])}" if failed else ""  # [ ] are a pattern to a shell
        lines.append(
            f"look closer: orchestrator show {record.run_id}; orchestrator logs"
            f" {record.run_id}{example}"
        )
    if record.state in (RunState.FAILED, RunState.CANCELLED):
        lines.append(f"go on with: orchestrator resume {record.run_id}")
    return "\n".join(lines)


def _taken_over(record: RunRecord) -> str:
    count = sum(step.is_reused for step in record.steps.values())
    return f" ({count:,} taken over from run {record.rerun_of})" if count else ""


def _took(record: RunRecord) -> str:
    if record.resumed_at_us is None:
        return f"in {duration_text(record.created_at_us, record.ended_at_us)}"
    times = f" for the {_ordinal(record.resumes)} time" if record.resumes > 1 else ""
    return f"{duration_text(record.resumed_at_us, record.ended_at_us)} after it was resumed{times}"


def _ordinal(number: int) -> str:
    ending = (
        "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    )
    return f"{number}{ending}"


def _stopped_attempts(record: RunRecord) -> list[str]:
    """Say how the attempts went that had to be stopped when their steps were cancelled for the
    last time."""
    lines = [
        f"  {name} {stopped_text(stopped)}"
        for name, step in record.steps.items()
        if step.state is StepState.CANCELLED
        and step.attempts
        and (stopped := step.attempts[-1].stopped)
    ]
    more = [f"  …{and_more(len(lines) - STOPPED, 'were stopped')}"] if len(lines) > STOPPED else []
    return lines[:STOPPED] + more


def stopped_text(stopped: Mapping[str, Any]) -> str:
    """Say how an attempt went that had to be stopped, from the detail of its event."""
    after = f" after {stopped['after_s']:.1f} s" if "after_s" in stopped else ""
    return f"stopped{after}: {stopped.get('how') or stopped.get('reason', '')}"


def repairs_text(record: RunRecord) -> str:
    """Say that the safety net caught something."""
    return (
        f"  the safety net caught {counted(record.repairs, 'thing')}: orchestrator events"
        f" {record.run_id}"
    )


def _results(record: RunRecord) -> list[str]:
    """Return the outputs that no later step made another output of; an alert or a clean-up makes
    none."""
    waited_for = {name for giver in record.outputs for name in record.steps[giver].upstream}
    ends = [name for name in record.steps if name in record.outputs and name not in waited_for]
    lines = [
        f"  {name} gave {json.dumps(shown_output(record.outputs[name]), ensure_ascii=False)}"
        for name in ends[:RESULTS]
    ]
    more = [f"  …{and_more(len(ends) - RESULTS, 'results')}"] if len(ends) > RESULTS else []
    return [line if len(line) <= LINE_CHARS else f"{line[:LINE_CHARS]}…" for line in lines] + more


def _failure(record: RunRecord, name: str, log: Sequence[str]) -> list[str]:
    step = record.steps[name]
    last = step.attempts[-1] if step.attempts else None
    outcome = last.outcome.value if last and last.outcome else "failed"
    lines = [
        f"  {name} {outcome}{_tried(record, name, last)}:"
        f" {error_line(last.error if last else None)}"
    ]
    return lines + [f"    | {line[:LINE_CHARS]}" for line in log[-LOG_LINES:]]


def _tried(record: RunRecord, name: str, last: AttemptRecord | None) -> str:
    """Say after how many attempts a step failed: of the budget that it has since the last
    resume."""
    if last is None:
        return ""
    tries = record.tries(name)
    since = " since it was resumed" if tries.is_resumed else ""
    if last.outcome is Outcome.LOST:  # the error names that budget
        made = sum(attempt.resumes == record.resumes for attempt in record.steps[name].attempts)
        return f" after {counted(made, 'attempt')}{since}" if made > 1 or since else ""
    if tries.made < tries.allowed:
        return f" after {tries.made} of {tries.allowed} attempts{since}"
    if since:
        return f" after {counted(tries.made, 'attempt')}{since} (retries={tries.allowed - 1})"
    return f" after {tries.made} attempts" if tries.made > 1 else ""


def _not_run(record: RunRecord) -> list[str]:
    because: dict[str, list[str]] = {}
    for name, step in record.steps.items():
        if step.state is StepState.UPSTREAM_FAILED:
            because.setdefault(step.because or "?", []).append(name)
    lines = []
    for cause, names in because.items():
        is_cancelled = cause in record.steps and record.steps[cause].state is StepState.CANCELLED
        what = "was cancelled" if is_cancelled else "failed"
        lines.append(f"  not run, because {cause} {what}: {listed(names, 5)}")
    return lines


def unserved_text(unserved: Unserved) -> str:
    """Say that steps wait for a pool that nobody serves."""
    steps = unserved.steps
    why = unserved.hindrance or f"no worker serves pool {unserved.pool}"
    return f"waiting: {why} (step {listed(steps, 1)})"
