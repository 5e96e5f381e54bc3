"""`orchestrator events`: what happened in a run, oldest first."""

from __future__ import annotations

import json
from typing import Any

import click

from orchestrator.cli.answer import answer, json_option
from orchestrator.cli.completion import run_argument
from orchestrator.error_card import ErrorCard
from orchestrator.installation import open_installation
from orchestrator.ledger.details import Started
from orchestrator.ledger.events import RUN_ENDS, Event, EventKind
from orchestrator.runs.finding import find_run
from orchestrator.times import rfc3339

LISTED = 5  # of a list in an event's detail


@click.command()
@run_argument()
@click.option(
    "-f",
    "--follow",
    is_flag=True,
    help="Continue until the run has ended.",
)
@json_option()
def events(run_text: str, follow: bool, as_json: bool) -> None:
    """Print the events of a run, oldest first."""
    with open_installation() as installation:
        run_id = find_run(installation.ledger, run_text)
        events = list(installation.ledger.events(run_id))
        if as_json and not follow:
            answer(json.dumps([_event_json(event) for event in events]))
            return
        after, is_over = "0", False
        while True:
            for event in events:
                answer(json.dumps(_event_json(event)) if as_json else _event_line(event))
                if event.kind in RUN_ENDS or event.kind is EventKind.RUN_RESUMED:
                    is_over = event.kind in RUN_ENDS
            if is_over or not follow:
                return
            after = events[-1].id if events else after
            events = installation.ledger.wait_for_events(run_id, after, 5.0)
            installation.ledger.run_fields(run_id)  # raises when somebody has deleted the run


def _event_json(event: Event) -> dict[str, Any]:
    return {
        "id": event.id,
        "event": event.kind,
        "at": rfc3339(event.at_us),
        **({"step": event.step, "attempt": event.attempt} if event.step else {}),
        **(
            event.fields
            if event.kind is EventKind.STEP_STARTED
            else {"detail": event.fields or None}
        ),
    }


def _event_line(event: Event) -> str:
    failed = getattr(event.detail, "error", None)
    error = f" {failed.line if isinstance(failed, ErrorCard) else failed}" if failed else ""
    shown = {
        key: rfc3339(value) if key == "due_at" else _shortened(value)
        for key, value in event.fields.items()
        if key != "error" and value != []
    }
    words = " ".join(f"{key}={value}" for key, value in shown.items())
    detail = event.detail.worker if isinstance(event.detail, Started) else words + error
    where = f" {event.step} attempt {event.attempt}" if event.step else ""
    return f"{rfc3339(event.at_us)} {event.kind}{where} {detail}".rstrip()


def _shortened(value: Any) -> Any:
    """Return a list so that it fits a line; its length says the rest."""
    if not isinstance(value, list):
        return value
    more = f", … {len(value)} in all" if len(value) > LISTED else ""
    return f"{', '.join(map(str, value[:LISTED]))}{more}"
