"""The table of a run's steps for people: a row for each, or for all items of a fan-out together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.cli.summary import SKIP_REASON
from orchestrator.ledger.states import StepState
from orchestrator.record.received_json import differences_text
from orchestrator.record.run import RunRecord, StepRecord
from orchestrator.runs.reasons import brief
from orchestrator.runs.surroundings import Surroundings
from orchestrator.times import duration_text, span_text
from orchestrator.wording import and_more, counted, fan_outs

HEAD = ("step", "state", "attempts", "took", "worker", "")
FAILED_SHOWN = 10  # of each fan-out
_OPEN = (StepState.WAITING, StepState.QUEUED, StepState.RUNNING, StepState.RETRYING)


@dataclass(frozen=True)
class StepTable:
    """What the table says: `around` is of a run that goes on; `stopping` has the worker of each
    step whose attempt is being stopped."""

    record: RunRecord
    around: Surroundings | None = None
    stopping: Mapping[str, str] = field(default_factory=dict)

    def text(self, *, shows_items: bool = False) -> str:
        """Return a row for each step. Items of a fan-out share one, with what failed of them below
        it, unless `shows_items`."""
        rows: list[Sequence[str]] = [HEAD]
        for name, items in fan_outs(self.record.steps).items():
            if shows_items or len(items) == 1:
                rows += map(self._row, items)
            else:
                rows += self._fan_out_rows(name, items)
        return _aligned(rows)

    def failed_text(self) -> str:
        """Return a row for each step that failed."""
        failed = [
            name for name, step in self.record.steps.items() if step.state is StepState.FAILED
        ]
        return _aligned([HEAD, *map(self._row, failed)]) if failed else "no step failed"

    def _fan_out_rows(self, name: str, items: Sequence[str]) -> list[Sequence[str]]:
        steps = [self.record.steps[item] for item in items]
        counts = Counter(step.state for step in steps)
        lasts = [step.attempts[-1] for step in steps if step.attempts]
        spans_us = [
            last.ended_at_us - last.started_at_us
            for last in lasts
            if last.started_at_us is not None and last.ended_at_us is not None
        ]
        took = ""
        if spans_us:
            fastest, slowest = span_text(min(spans_us)), span_text(max(spans_us))
            took = fastest if fastest == slowest else f"{fastest} to {slowest}"
        workers = {last.worker for last in lasts if last.worker}
        failed = [item for item, step in zip(items, steps, strict=True) if _is_failed(step)]
        more = and_more(len(failed) - FAILED_SHOWN, "that failed: --failed shows them")
        row = (
            name,
            ", ".join(f"{count:,} {state.value}" for state, count in counts.most_common()),
            str(sum(len(step.attempts) for step in steps)),
            took,
            next(iter(workers)) if len(workers) == 1 else counted(len(workers), "worker"),
            more.strip(),
        )
        return [row, *(self._row(item) for item in failed[:FAILED_SHOWN])]

    def _row(self, name: str) -> Sequence[str]:
        step = self.record.steps[name]
        last = step.attempts[-1] if step.attempts else None
        worker = (last.worker if last else "") or ""
        note = self._open_note(name, worker) if step.state in _OPEN else self._note(name, step)
        notes = [note, step.drift]
        if name in self.stopping:
            notes.append(f"still being stopped by {self.stopping[name]}")
        took = duration_text(last.started_at_us, last.ended_at_us) if last else ""
        text = "; ".join(filter(None, notes))
        return name, step.state.value, str(len(step.attempts)), took, worker, text

    def _open_note(self, name: str, worker: str) -> str:
        if self.around is None:
            return ""
        return brief(self.record, name, self.around).removeprefix(f"on {worker} ")

    def _note(self, name: str, step: StepRecord) -> str:
        record = self.record
        if step.state is StepState.SUCCEEDED:
            return reused_text(step) or differences_text(record.differences(name))
        if step.state is StepState.SKIPPED:
            return SKIP_REASON
        if step.because:
            return f"because of {step.because}"
        if step.state is StepState.CANCELLED:
            reason = step.cancel_reason or ""
            return reason if reason != record.cancel_reason else ""
        if step.attempts and step.attempts[-1].error:
            return step.attempts[-1].error.line
        return ""


def reused_text(step: StepRecord) -> str:
    """Return from where a step's output was taken over, "" if it was not."""
    if step.reused is None or not step.is_reused:
        return ""
    return f"taken over from attempt {step.reused.attempt} of run {step.reused.run_id}"


def _is_failed(step: StepRecord) -> bool:
    return step.state is StepState.FAILED


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD) - 1)]
    return "\n".join(
        "  ".join(
            [*(cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)), row[-1]]
        ).rstrip()
        for row in rows
    )
