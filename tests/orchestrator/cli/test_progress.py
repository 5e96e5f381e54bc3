"""What a run tells while it goes on, beside the changes of its steps."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from orchestrator.cli.progress import Lines, Panel
from orchestrator.ledger.events import Event, EventKind
from orchestrator.ledger.states import RunState, StepState
from orchestrator.record.run import AttemptRecord, RunRecord, StepRecord


@pytest.fixture
def record() -> RunRecord:
    """A run that failed: a succeeded, b failed, c did not run."""
    steps = {
        "a": StepRecord(StepState.SUCCEEDED, attempts=[AttemptRecord(1, 0)]),
        "b": StepRecord(StepState.FAILED, attempts=[AttemptRecord(1, 0)]),
        "c": StepRecord(StepState.UPSTREAM_FAILED),
    }
    return RunRecord("r", "p", RunState.FAILED, {}, 0, 0, 1, None, steps, {})


ERROR = {"type": "WorkerLost", "message": "killed by signal 9", "traceback": ""}
EVENTS = [
    ("run.resumed", "", 0, {"again": ["a"], "gone": [], "reset": 3, "params": {"x": 1}}),
    ("run.code_changed", "", 0, {"changed": ["m.py"]}),
    ("step.queued", "a", 2, {}),
    ("step.started", "a", 2, {"worker": "w"}),
    (
        "attempt.lost",
        "a",
        2,
        {"outcome": "lost", "error": ERROR, "found": "x", "lost": 1, "budget": 3},
    ),
    ("step.queued", "a", 3, {}),
    ("message.lost", "a", 3, {"found": "its queue is empty"}),
    ("step.started", "a", 3, {"worker": "w"}),
    ("attempt.handed_over", "a", 3, {"outcome": "handed_over", "reason": "its worker ended"}),
    ("step.queued", "a", 4, {}),
    ("step.started", "a", 4, {"worker": "w"}),
    ("step.cancelled", "a", 4, {"reason": "enough"}),
    ("attempt.stopped", "a", 4, {"how": "it ended when asked", "after_s": 0.31}),
]


def events(upto: str = "attempt.stopped") -> list[Event]:
    told = [
        Event(f"1-{i}", EventKind(name), 1_000_000 * i, *rest)
        for i, (name, *rest) in enumerate(EVENTS)
    ]
    last = max(i for i, event in enumerate(told) if event.kind == upto)
    return told[: last + 1]


def test_each_repair_and_each_stop_is_told_in_one_line(record, capsys) -> None:
    Lines(record, is_quiet=False).show(events())

    head, *lines = capsys.readouterr().out.splitlines()
    assert head == "run r of pipeline p: 3 steps"
    assert [re.sub(r"^00:00:\d\d.000 ", "", line) for line in lines] == [
        "resumed: 3 steps wait anew, 1 of which had succeeded; x changed",
        "a started (attempt 2)",
        "a attempt 2 lost: WorkerLost: killed by signal 9; queued again (lost 1 of 3)",
        "a sent again: its message was lost (its queue is empty)",
        "a started (attempt 3)",
        "a attempt 3 handed over: its worker ended; queued again",
        "a started (attempt 4)",
        "a cancelled (attempt 4): enough",
        "a attempt 4 stopped after 0.3 s: it ended when asked",
    ]


@pytest.mark.parametrize("said", ["gone.", "Is it mounted?"])
def test_what_others_say_is_ended_once(record, capsys, said: str) -> None:
    error = {"type": "ValueError", "message": said, "traceback": ""}
    told = [
        ("attempt.lost", {"error": error, "lost": 1, "budget": 3}),
        ("attempt.handed_over", {"reason": said}),
        ("step.retrying", {"error": error, "due_at": 1_000_000}),
        ("step.failed", {"error": error}),
    ]
    Lines(record, is_quiet=False).show(
        [Event("1-0", EventKind(name), 0, "a", 1, detail) for name, detail in told]
    )

    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert not [line for line in lines if re.search(r"[.:;,][.;,:]|\?\.", line)]


def test_the_panel_counts_a_resumed_run_anew(record) -> None:
    panel = Panel(record)
    assert "3/3" in shown(panel)

    def show(new: list[Event]) -> None:
        record.apply(new)
        panel.show(new)

    show(events(upto="run.code_changed"))
    assert "0/3" in shown(panel)
    assert "3 waiting" in shown(panel)

    show(events()[2:6])  # queued, started, lost, queued
    assert "2 waiting  1 queued" in shown(panel)
    assert "▸ a" not in shown(panel)
    assert "a attempt 2 lost: WorkerLost: killed by signal 9" in shown(panel)

    show(events()[6:])
    assert "1/3" in shown(panel)


def shown(panel: Panel) -> str:
    console = Console(width=200, file=io.StringIO())
    with console.capture() as capture:
        console.print(panel)
    return capture.get()
