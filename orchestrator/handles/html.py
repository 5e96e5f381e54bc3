"""A run as a table for notebooks."""

from __future__ import annotations

from html import escape

from orchestrator.error_card import error_line
from orchestrator.ledger.states import StepState
from orchestrator.record.run import RunRecord, StepRecord
from orchestrator.times import duration_text

STEPS_SHOWN = 200
_COLOURS = {
    StepState.SUCCEEDED: "#1a7f37",
    StepState.FAILED: "#cf222e",
    StepState.RUNNING: "#0969da",
    StepState.RETRYING: "#9a6700",
    StepState.UPSTREAM_FAILED: "#cf222e",
}


def run_html(record: RunRecord) -> str:
    """Return the steps of a run, each with its state, attempts, time and error, as HTML."""
    rows = [_row(name, step) for name, step in list(record.steps.items())[:STEPS_SHOWN]]
    more = len(record.steps) - STEPS_SHOWN
    rest = f"<p>… and {more:,} more steps</p>" if more > 0 else ""
    head = "".join(f"<th>{word}</th>" for word in ("step", "state", "attempts", "time", ""))
    return (
        f"<div><p><b>{escape(record.pipeline)}</b> run <code>{escape(record.run_id)}</code>:"
        f" {record.state.value}</p><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>{rest}</div>"
    )


def _row(name: str, step: StepRecord) -> str:
    last = step.attempts[-1] if step.attempts else None
    took = duration_text(last.started_at_us, last.ended_at_us) if last else ""
    told = error_line(last.error) if last and last.error else ""
    colour = _COLOURS.get(step.state, "inherit")
    cells = (
        escape(name),
        f'<span style="color:{colour}">{step.state.value}</span>',
        str(len(step.attempts) or ""),
        escape(took or ""),
        escape(told),
    )
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
