"""What an alert says of a failed run: the cause, how to go on, and the last log lines."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.attempt_id import AttemptId
from orchestrator.error_card import ErrorCard
from orchestrator.ledger.events import EventKind
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.states import StepState
from orchestrator.record.run import RunRecord, StepRecord, read_skeleton
from orchestrator.times import span_text

TITLE_CHARS = 150
ERROR_CHARS = 1000
LINE_CHARS = 300
FAILURES = 5
LOGS = 3  # steps whose log lines are shown
LOG_LINES = 10


@dataclass(frozen=True, slots=True)
class Message:
    """Title and body, as plain text."""

    title: str
    body: str


def failure_message(ledger: Ledger, run_id: str) -> Message:
    """Return the message about a failed run, from its record. Raises RunUnknown.

    What matters stands first, for some services cut long texts.
    """
    record = read_skeleton(ledger, run_id)
    events = list(ledger.events(run_id))
    record.apply(events)
    begun = [("its start", record.created_at_us)]
    begun += [
        ("its resume", event.at_us) for event in events if event.kind is EventKind.RUN_RESUMED
    ]
    since, began_us = begun[-1]
    took = span_text((record.ended_at_us or began_us) - began_us)

    causes = _causes(record)
    title = _cut(f"pipeline {record.pipeline} failed: {causes[0].splitlines()[0]}", TITLE_CHARS)
    paragraphs = [
        f"Run {run_id} of pipeline {record.pipeline} failed {took} after {since}.",
        "\n".join(causes),
        f"To go on where it stopped:\norchestrator resume {run_id}",
        *_logs(ledger, record),
    ]
    return Message(title, "\n\n".join(paragraphs))


def _causes(record: RunRecord) -> list[str]:
    failed = _in_state(record, StepState.FAILED)
    causes = [record.cancel_reason] if record.cancel_reason else []
    causes += [_failure(name, step) for name, step in failed[:FAILURES]]
    if len(failed) > FAILURES:
        causes.append(f"{len(failed) - FAILURES:,} more steps failed")
    if stopped := _stopped(record):
        causes.append(f"running then: {_cut(', '.join(name for name, _ in stopped), LINE_CHARS)}")
    if not_run := _in_state(record, StepState.UPSTREAM_FAILED):
        causes.append(
            f"not run because of that: {_cut(', '.join(name for name, _ in not_run), LINE_CHARS)}"
        )
    return causes or ["its record does not say why"]


def _failure(name: str, step: StepRecord) -> str:
    last = step.attempts[-1] if step.attempts else None
    if last is None:
        return f"step {name} failed"
    place = f" on {last.worker}" if last.worker else ""
    error = last.error or ErrorCard("no error was recorded", "")
    message = error.message.strip()
    text = f"{error.kind}: {message}" if message else error.kind
    return f"step {name} failed in attempt {last.attempt}{place}: {_cut(text, ERROR_CHARS)}"


def _logs(ledger: Ledger, record: RunRecord) -> list[str]:
    """Return the last lines of the steps that failed, or that were running when the run was
    ended."""
    paragraphs = []
    for name, step in [*_in_state(record, StepState.FAILED), *_stopped(record)][:LOGS]:
        attempt = step.attempts[-1].attempt if step.attempts else 0
        if lines := ledger.log_lines(AttemptId(record.run_id, name, attempt))[-LOG_LINES:]:
            shown = [f"| {_cut(line, LINE_CHARS)}" for line in lines]
            paragraphs.append("\n".join([f"Last lines of step {name}, attempt {attempt}:", *shown]))
    return paragraphs


def _in_state(record: RunRecord, state: StepState) -> list[tuple[str, StepRecord]]:
    return [(name, step) for name, step in record.steps.items() if step.state is state]


def _stopped(record: RunRecord) -> list[tuple[str, StepRecord]]:
    """Return the steps that were running when the run was ended before its time."""
    return [
        (name, step)
        for name, step in _in_state(record, StepState.CANCELLED)
        if step.attempts and step.attempts[-1].started_at_us is not None
        if step.attempts[-1].ended_at_us == record.ended_at_us
    ]


def _cut(text: str, chars: int) -> str:
    return text if len(text) <= chars else f"{text[: chars - 1]}…"
