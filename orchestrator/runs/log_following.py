"""What the steps of a run write, line by line, while they write it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.attempt_id import AttemptId
from orchestrator.ledger.events import RUN_ENDS, EventKind
from orchestrator.ledger.ledger import Ledger

LOOK_S = 0.5


@dataclass(frozen=True, slots=True)
class WrittenLine:
    """A line of an attempt. `number` counts from 1; `missing` lines before it were dropped."""

    step: str
    attempt: int
    number: int
    text: str
    missing: int = 0


def follow_logs(ledger: Ledger, run_id: str, step: str = "") -> Iterator[WrittenLine]:
    """Yield each line once, those that are there already first, until the run has ended. Only those
    of one step where it is named."""
    after, shown, is_over = "0", dict[AttemptId, int](), False
    while not is_over:
        ended = []
        for event in ledger.wait_for_events(run_id, after, LOOK_S):
            after = event.id
            attempt = AttemptId(run_id, event.step, event.attempt)
            if event.kind is EventKind.STEP_STARTED and step in ("", event.step):
                shown[attempt] = 0
            elif attempt in shown:
                ended.append(attempt)  # what it wrote was sent before its end
            if event.kind in RUN_ENDS or event.kind is EventKind.RUN_RESUMED:
                is_over = event.kind in RUN_ENDS
        for attempt in shown:
            yield from _new_lines(ledger, attempt, shown)
        for attempt in ended:
            shown.pop(attempt, None)
        ledger.run_fields(run_id)  # raises when somebody has deleted the run


def _new_lines(
    ledger: Ledger, attempt: AttemptId, shown: dict[AttemptId, int]
) -> Iterator[WrittenLine]:
    log, before = ledger.log(attempt), shown[attempt]
    missing = max(0, log.dropped - before)
    for number, text in enumerate(log.lines, log.dropped + 1):
        if number > before:
            yield WrittenLine(attempt.step, attempt.attempt, number, text, missing)
            missing = 0
            shown[attempt] = number
