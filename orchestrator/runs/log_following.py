"""What the steps of a run write, line by line, while they write it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.attempt_id import AttemptId
from orchestrator.ledger.events import RUN_ENDS, Event, EventKind
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

    @property
    def head(self) -> str:
        """What stands before it for people: the step, and the attempt unless it is the first."""
        return f"{self.step} attempt {self.attempt}" if self.attempt > 1 else self.step


class LogFollower:
    """Finds each line of a run's steps once, while they write; of one step where it is named."""

    def __init__(self, ledger: Ledger, run_id: str, step: str = "") -> None:
        self._ledger, self._run_id, self._step = ledger, run_id, step
        self._shown: dict[AttemptId, int] = {}  # lines of the attempts that run

    def take(self, event: Event) -> Iterator[WrittenLine]:
        """Take in the next event of the run, and yield the lines that are new of an attempt that
        it ends: they were sent before its end."""
        attempt = AttemptId(self._run_id, event.step, event.attempt)
        if event.kind is EventKind.STEP_STARTED and self._step in ("", event.step):
            self._shown[attempt] = 0
        elif attempt in self._shown:
            yield from self._new_lines(attempt)
            del self._shown[attempt]

    def lines(self) -> Iterator[WrittenLine]:
        """Yield the lines that are new of attempts that run."""
        for attempt in self._shown:
            yield from self._new_lines(attempt)

    def _new_lines(self, attempt: AttemptId) -> Iterator[WrittenLine]:
        log, before = self._ledger.log(attempt), self._shown[attempt]
        missing = max(0, log.dropped - before)
        for number, text in enumerate(log.lines, log.dropped + 1):
            if number > before:
                yield WrittenLine(attempt.step, attempt.attempt, number, text, missing)
                missing = 0
                self._shown[attempt] = number


def follow_logs(ledger: Ledger, run_id: str, step: str = "") -> Iterator[WrittenLine]:
    """Yield each line once, those that are there already first, until the run has ended. Only those
    of one step where it is named."""
    after, is_over, follower = "0", False, LogFollower(ledger, run_id, step)
    while not is_over:
        for event in ledger.wait_for_events(run_id, after, LOOK_S):
            after = event.id
            yield from follower.take(event)
            if event.kind in RUN_ENDS or event.kind is EventKind.RUN_RESUMED:
                is_over = event.kind in RUN_ENDS
        yield from follower.lines()
        ledger.run_fields(run_id)  # raises when somebody has deleted the run
