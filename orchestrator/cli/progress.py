"""Live progress of a run: a panel on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import click
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.cli.summary import SKIP_REASON, stopped_text, unserved_text
from orchestrator.error_card import error_line
from orchestrator.ledger.details import (
    Decided,
    Ended,
    HandedOver,
    Lost,
    Paused,
    PutBack,
    Resumed,
    SharedQueue,
    Shifted,
    Stopped,
    TakenOver,
    Unsent,
    Willed,
)
from orchestrator.ledger.events import STEP_STATES, Event, EventKind
from orchestrator.ledger.states import StepState
from orchestrator.record.run import RunRecord
from orchestrator.times import clock_text, duration_text
from orchestrator.wording import and_more, counted, punctuated

if TYPE_CHECKING:
    from orchestrator.runs.following import Screen
    from orchestrator.runs.log_following import LogFollower, WrittenLine
    from orchestrator.runs.surroundings import Unserved

RUNNING_ROWS = 8
RECENT_ROWS = 6
# runs with more steps than this print a count now and then instead of a line for each change
EVERY_STEP = 300
COUNT_EVERY = 500
WORDS = {"reused": "taken over"}
STYLES = {
    "succeeded": "green",
    "failed": "bold red",
    "running": "cyan",
    "retrying": "yellow",
    "upstream_failed": "red",
}


class Progress(Protocol):
    def show(self, events: Sequence[Event]) -> None:
        """Show changes that the record has taken in already."""

    def show_unserved(self, unserved: Sequence[Unserved]) -> None:
        """Show the pools without workers for which steps wait."""

    def warn(self, text: str) -> None:
        """Show what somebody should know though it is not a change of the run."""

    def show_log(self, line: WrittenLine) -> None:
        """Show a line that a step wrote."""


@contextmanager
def progress_for(
    record: RunRecord, *, is_quiet: bool, logs: LogFollower | None = None
) -> Iterator[Screen]:
    """Return the progress that fits: on stderr only warnings when quiet, a live panel on a
    terminal, else lines. With `logs` it shows what the steps write, too."""
    if not is_quiet and sys.stdout.isatty():
        panel = Panel(record)
        with Live(panel, console=panel.console, refresh_per_second=6, transient=False):
            yield Watched(panel, logs)
    else:
        yield Watched(Lines(record, is_quiet), logs)


@dataclass(frozen=True)
class Watched:
    """Progress, with what the steps write if somebody follows that."""

    progress: Progress
    logs: LogFollower | None

    def show(self, events: Sequence[Event]) -> None:
        if self.logs is None:
            self.progress.show(events)
            return
        for event in events:
            self._show_logs(self.logs.take(event))
            self.progress.show([event])
        self.look()

    def look(self) -> None:
        if self.logs:
            self._show_logs(self.logs.lines())

    def show_unserved(self, unserved: Sequence[Unserved]) -> None:
        self.progress.show_unserved(unserved)

    def warn(self, text: str) -> None:
        self.progress.warn(text)

    def _show_logs(self, lines: Iterable[WrittenLine]) -> None:
        for line in lines:
            self.progress.show_log(line)


class Lines:
    """A line for each change, for logs and pipes."""

    def __init__(self, record: RunRecord, is_quiet: bool) -> None:
        self._record = record
        self._is_quiet = is_quiet
        self._is_short = len(record.steps) > EVERY_STEP
        self._succeeded = sum(step.state is StepState.SUCCEEDED for step in record.steps.values())
        self._warned: set[tuple[str, str]] = set()
        if not is_quiet:
            click.echo(
                f"run {record.run_id} of pipeline {record.pipeline}:"
                f" {counted(len(record.steps), 'step')}"
            )

    def show(self, events: Sequence[Event]) -> None:
        if self._is_quiet:
            return
        for event in events:
            if news := _news(event):
                click.echo(f"{clock_text(event.at_us)} {news}")
            if event.kind is EventKind.RUN_RESUMED:
                assert isinstance(event.detail, Resumed)
                self._succeeded -= len(event.detail.again)
            if event.kind not in STEP_STATES or event.kind is EventKind.STEP_QUEUED:
                continue
            word = event.kind.verb
            if self._is_short and word in ("started", "succeeded", "reused"):
                self._succeeded += word != "started"
                if word != "started" and self._succeeded % COUNT_EVERY == 0:
                    counted = f"{self._succeeded:,} of {len(self._record.steps):,} succeeded"
                    click.echo(f"{clock_text(event.at_us)} {counted}")
                continue
            click.echo(
                f"{clock_text(event.at_us)} {event.step} {WORDS.get(word, word)}{_remark(event)}"
            )

    def show_unserved(self, unserved: Sequence[Unserved]) -> None:
        for waiting in unserved:
            if (waiting.pool, waiting.hindrance) not in self._warned:
                self.warn(unserved_text(waiting))
        self._warned = {(waiting.pool, waiting.hindrance) for waiting in unserved}

    def warn(self, text: str) -> None:
        click.echo(text, err=self._is_quiet)

    def show_log(self, line: WrittenLine) -> None:
        click.echo(f"{line.head} | {line.text}", err=self._is_quiet)


class Panel:
    """What a person at a terminal wants to see: how far it is, what runs now, what went wrong.

    It shows the record, which has to know the events (`RunRecord.apply`) before they are shown.
    """

    def __init__(self, record: RunRecord) -> None:
        self.console = Console()
        self._record = record
        self._recent: list[Text] = []
        self._unserved: Sequence[Unserved] = ()
        self._now_us = record.created_at_us

    def show(self, events: Sequence[Event]) -> None:
        for event in events:
            self._now_us = event.at_us
            if news := _news(event):
                self._add(event.at_us, "", news, "yellow")
            if event.kind not in STEP_STATES or event.step not in self._record.steps:
                continue
            word, state = event.kind.verb, STEP_STATES[event.kind]
            if state not in (StepState.QUEUED, StepState.RUNNING):
                text = f" {WORDS.get(word, word)}{_remark(event)}"
                self._add(event.at_us, event.step, text, STYLES.get(state.value, ""))

    def warn(self, text: str) -> None:
        self._add(self._now_us, "", text, "yellow")

    def show_log(self, line: WrittenLine) -> None:
        shown = Text(f"{line.head} | ", style="dim")
        shown.append(line.text, style="default")
        self.console.print(shown)

    def _add(self, at_us: int, head: str, text: str, style: str) -> None:
        line = Text(f"{clock_text(at_us)} ", style="dim")
        line.append(head, style="bold")
        line.append(text, style=style)
        self._recent = [*self._recent, line][-RECENT_ROWS:]

    def show_unserved(self, unserved: Sequence[Unserved]) -> None:
        self._unserved = unserved

    def __rich__(self) -> Group:
        record, total = self._record, len(self._record.steps)
        states = Counter(step.state for step in record.steps.values())
        ended = sum(count for state, count in states.items() if state.is_ended)
        began_us = record.created_at_us if record.resumed_at_us is None else record.resumed_at_us
        head = Table.grid(padding=(0, 2))
        head.add_row(
            Text(record.pipeline, style="bold"),
            ProgressBar(total=max(1, total), completed=ended, width=30),
            f"{ended}/{total}",
            duration_text(began_us, self._now_us),
            Text(
                "  ".join(f"{states[state]} {state.value}" for state in StepState if states[state]),
                style="dim",
            ),
        )
        running = [name for name, step in record.steps.items() if step.state is StepState.RUNNING]
        rows = [Text(f"  ▸ {name}", style="cyan") for name in running[:RUNNING_ROWS]]
        if len(running) > RUNNING_ROWS:
            rows.append(Text(f"    …{and_more(len(running) - RUNNING_ROWS)}", style="cyan"))
        warnings = [Text(unserved_text(waiting), style="yellow") for waiting in self._unserved]
        return Group(
            Text(f"run {record.run_id}", style="dim"), head, *self._recent, *rows, *warnings
        )


def _news(event: Event) -> str | None:
    """Return what there is to say of an event that is not a change of a step; None when nobody
    needs to know at once."""
    named = f"{event.step} attempt {event.attempt}"
    match event.detail:
        case Lost() as lost:
            counted = f"lost {lost.lost} of {lost.budget}"
            return (
                f"{named} lost: {punctuated(error_line(lost.error), ';')} queued again ({counted})"
            )
        case HandedOver() as it:
            return f"{named} handed over: {punctuated(it.reason, ';')} queued again"
        case PutBack() as it:
            return f"{named} put back: {it.reason}"
        case Unsent(found) if event.kind is EventKind.MESSAGE_LOST:
            return f"{event.step} sent again: its message was lost ({found})"
        case SharedQueue(queue, reader):
            return f"queue {queue} is read by {reader}, too: its messages get lost"
        case Stopped():
            return f"{named} {stopped_text(event.fields)}"
        case Shifted(by_s):
            way = "forward" if by_s > 0 else "back"
            return f"the server's clock was put {way} by {abs(by_s):.1f} s"
        case Paused(for_s):
            return (
                f"the server was away for {for_s:.1f} s: not counted for deadline and queue"
                " timeouts"
            )
        case Resumed() as resumed:
            return _resumed(resumed)
    return None


def _resumed(resumed: Resumed) -> str:
    count = resumed.reset or 0
    text = f"resumed: {count:,} step{' waits' if count == 1 else 's wait'} anew"
    if again := len(resumed.again):
        text += f", {again:,} of which had succeeded"
    if resumed.params:
        text += f"; {', '.join(resumed.params)} changed"
    return text


def _remark(event: Event) -> str:
    text = f" (attempt {event.attempt})" if event.attempt > 1 else ""
    match event.detail:
        case Ended() as ended:
            text += f": {error_line(ended.error)}" if ended.error else ""
            text += f": {ended.reason}" if ended.reason else ""
            if ended.due_at:
                text = f"{punctuated(text, ';')} retry at {clock_text(ended.due_at)}"
        case TakenOver(run):
            text += f" from run {run}"
        case Decided(because):
            is_skipped = event.kind is EventKind.STEP_SKIPPED
            text += f": {SKIP_REASON}" if is_skipped else f", because of {because}"
        case Willed(reason) if reason:
            text += f": {reason}"
    return text
