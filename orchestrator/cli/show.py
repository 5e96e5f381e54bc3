"""`runs`, `show`, `events` and `logs`: the record, for people and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import click

from orchestrator.attempt_id import AttemptId
from orchestrator.cli.answer import answer, json_option
from orchestrator.cli.params import labels_option
from orchestrator.cli.summary import SKIP_REASON, repairs_text, summary_text
from orchestrator.error_card import ErrorCard
from orchestrator.errors import RunNotFound, names_hint
from orchestrator.installation import open_installation
from orchestrator.ledger.details import Started
from orchestrator.ledger.events import RUN_ENDS, Event, EventKind
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.states import RunState, StepState
from orchestrator.record.as_json import record_json
from orchestrator.record.received_json import differences_text
from orchestrator.record.run import RunRecord, StepRecord, read_record
from orchestrator.runs.finding import RunFilter, find_run, labels_in, list_runs
from orchestrator.runs.reasons import brief
from orchestrator.runs.surroundings import Surroundings, look_around
from orchestrator.times import duration_text, moment_us, rfc3339

LISTED = 5  # of a list in an event's detail
_OPEN = (StepState.WAITING, StepState.QUEUED, StepState.RUNNING, StepState.RETRYING)
_run_argument = click.argument("run_text", metavar="RUN")


@click.command()
@click.option("--pipeline", default="", metavar="NAME", help="Only runs of this pipeline.")
@click.option("--state", type=click.Choice([state.value for state in RunState]), help="Only these.")
@labels_option("Only runs with this label.")
@click.option("--since", metavar="TIME", help="Not older than: 2026-11-30, 12h, 7d.")
@click.option(
    "--limit",
    default=20,
    show_default=True,
    type=click.IntRange(min=1),
    help="How many rows to show.",
)
@json_option()
def runs(
    pipeline: str,
    state: str | None,
    labels: dict[str, str],
    since: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List runs, newest first. `show` looks closer at one."""
    with open_installation() as installation:
        ledger = installation.ledger
        since_us = _since_us(since, ledger.now_us()) if since else 0
        wanted = RunFilter(pipeline, RunState(state) if state else None, labels, since_us)
        listed = [
            (run_id, ledger.run_fields(run_id)) for run_id in list_runs(ledger, wanted, limit)
        ]
    rows: list[dict[str, Any]] = [
        {
            "run_id": run_id,
            "pipeline": fields["pipeline"],
            "state": fields["state"],
            "created_at": rfc3339(int(fields["created_at"])),
            "ended_at": rfc3339(_time(fields, "ended_at")),
            **({"labels": labels_in(fields)} if fields.get("labels") else {}),
            "duration": duration_text(int(fields["created_at"]), _time(fields, "ended_at")),
            "steps": {
                name[2:]: int(count)
                for name, count in fields.items()
                if name[:2] == "n:" and int(count)
            },
        }
        for run_id, fields in listed
    ]
    if as_json:
        answer(
            json.dumps(
                [{key: value for key, value in row.items() if key != "duration"} for row in rows]
            )
        )
        return
    for row in rows:
        counts = ", ".join(f"{count} {state}" for state, count in row["steps"].items())
        click.echo(
            f"{row['run_id']}  {row['state']:<9}  {row['duration']:>10}  {row['pipeline']} "
            f" ({counts})"
        )
    if not rows:
        asked = pipeline or state or labels or since
        click.echo("there is no such run" if asked else "there is no run yet", err=True)


@click.command()
@_run_argument
@json_option()
def show(run_text: str, as_json: bool) -> None:
    """Show a run: every step with its state, attempts, times, output and errors."""
    with open_installation() as installation:
        record = read_record(installation.ledger, find_run(installation.ledger, run_text))
        if as_json:
            answer(json.dumps(record_json(record)))
            return
        around = (
            look_around(installation.ledger, record.run_id) if not record.state.is_ended else None
        )
        logs = {
            name: installation.ledger.log_lines(
                AttemptId(record.run_id, name, step.attempts[-1].attempt)
            )
            for name, step in record.steps.items()
            if step.state is StepState.FAILED and step.attempts
        }
        stopping = {
            attempt.step: attempt.worker for attempt in installation.ledger.stopping(record.run_id)
        }
    click.echo(_table(record, around, stopping))
    if record.state.is_ended:
        click.echo(summary_text(record, logs))
    else:
        times = "once" if record.resumes == 1 else f"{record.resumes} times"
        resumed = (
            f", resumed {times}, last at {rfc3339(record.resumed_at_us)}" if record.resumes else ""
        )
        rerun = f", a rerun of {record.rerun_of}" if record.rerun_of else ""
        click.echo(f"run {record.run_id} is {record.state.value}{rerun}{resumed}")
        if record.repairs:
            click.echo(repairs_text(record))


@click.command()
@_run_argument
@click.option(
    "-f",
    "--follow",
    is_flag=True,
    help="Go on until the run has ended; with --json one object a line.",
)
@json_option()
def events(run_text: str, follow: bool, as_json: bool) -> None:
    """Print what happened in a run, oldest first."""
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


@click.command()
@_run_argument
@click.argument("step", required=False)
@click.option("--attempt", type=click.IntRange(min=1), help="Only this attempt.")
@click.option("-n", "--numbers", is_flag=True, help="Put its number in front of each line.")
@click.option("-f", "--follow", is_flag=True, help="Go on until the run has ended.")
@json_option()
def logs(
    run_text: str,
    step: str | None,
    attempt: int | None,
    numbers: bool,
    follow: bool,
    as_json: bool,
) -> None:
    """Print what the steps of a run wrote, and the traceback of each attempt that failed."""
    if follow:
        if attempt is not None:
            raise click.UsageError("--follow shows each attempt; leave --attempt out.")
        _follow_logs(run_text, step, numbers, as_json)
        return
    with open_installation() as installation:
        record = read_record(installation.ledger, find_run(installation.ledger, run_text))
        if step is not None and step not in record.steps:
            raise RunNotFound(
                f"run {record.run_id} has no step {step!r}.{names_hint(step, record.steps)}"
            )
        found: list[dict[str, Any]] = [
            {
                "step": name,
                "attempt": made.attempt,
                "lines": list(log.lines),
                "dropped": log.dropped,
            }
            | ({"error": made.error.to_json()} if made.error else {})
            for name in ([step] if step else record.steps)
            for made in record.steps[name].attempts
            if made.started_at_us is not None and attempt in (None, made.attempt)
            if (log := installation.ledger.log(AttemptId(record.run_id, name, made.attempt))).lines
            or made.error
        ]
        if not found and step is not None and record.steps[step].is_reused:
            found = _logs_of_reused(installation.ledger, step, record.steps[step])
    if as_json:
        answer(json.dumps(found))
        return
    for entry in found:
        attempts = len(record.steps[entry["step"]].attempts)
        number = f" attempt {entry['attempt']}" if attempts > 1 else ""
        head = f"{entry['step']}{number} | " if step is None or attempts > 1 else ""
        for line in _log_text(entry, with_numbers=numbers):
            click.echo(f"{head}{line}")
    if not found:
        click.echo(f"nothing was written by {'step ' + step if step else 'any step'}", err=True)


def _follow_logs(run_text: str, step: str | None, numbers: bool, as_json: bool) -> None:
    """Print each line when it is written, with its step and attempt."""
    from orchestrator.runs.log_following import follow_logs

    with open_installation() as installation:
        ledger = installation.ledger
        run_id = find_run(ledger, run_text)
        if step is not None and step not in (steps := ledger.entries(run_id)):
            raise RunNotFound(f"run {run_id} has no step {step!r}.{names_hint(step, steps)}")
        for line in follow_logs(ledger, run_id, step or ""):
            if as_json:
                answer(json.dumps(asdict(line)))
                continue
            again = f" attempt {line.attempt}" if line.attempt > 1 else ""
            number = f"{line.number}: " if numbers else ""
            if line.missing:
                click.echo(f"{line.step}{again} | … {line.missing:,} lines dropped")
            click.echo(f"{line.step}{again} | {number}{line.text}")


def _logs_of_reused(ledger: Ledger, name: str, step: StepRecord) -> list[dict[str, Any]]:
    """Return what the attempt wrote whose output a step has taken over, where its run is still
    there."""
    assert step.reused is not None
    run_id, attempt = step.reused
    click.echo(f"step {name} was {_reused_text(step)}: what that one wrote", err=True)
    log = ledger.log(AttemptId(run_id, name, attempt))
    entry = {
        "step": name,
        "run": run_id,
        "attempt": attempt,
        "lines": list(log.lines),
        "dropped": log.dropped,
    }
    return [entry] if log.lines else []


def _log_text(entry: Mapping[str, Any], *, with_numbers: bool) -> list[str]:
    """Return the lines of one attempt for people, with how many are missing before them."""
    dropped, lines = entry["dropped"], entry["lines"]
    numbered = (
        [f"{number}: {line}" for number, line in enumerate(lines, dropped + 1)]
        if with_numbers
        else lines
    )
    missing = (
        [f"… {dropped:,} earlier {'line' if dropped == 1 else 'lines'} dropped"] if dropped else []
    )
    return [*missing, *numbered, *_error_lines(entry.get("error"))]


def _since_us(text: str, now_us: int) -> int:
    try:
        return moment_us(text, now_us)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--since") from None


def _time(fields: dict[str, str], name: str) -> int | None:
    return int(fields[name]) if name in fields else None


def _error_lines(error: Mapping[str, Any] | None) -> list[str]:
    """Return the traceback of an error; what happened in one line if it has none, as when a worker
    was lost."""
    if not error:
        return []
    card = ErrorCard.from_json(error)
    return card.traceback.rstrip().splitlines() or [card.line]


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


def _table(record: RunRecord, around: Surroundings | None, stopping: Mapping[str, str]) -> str:
    rows = [("step", "state", "attempts", "took", "")]
    for name, step in record.steps.items():
        last = step.attempts[-1] if step.attempts else None
        took = duration_text(last.started_at_us, last.ended_at_us) if last else ""
        note = (
            brief(record, name, around)
            if around and step.state in _OPEN
            else _note(record, name, step)
        )
        if step.drift:
            note = "; ".join(filter(None, [note, step.drift]))
        if name in stopping:
            note = "; ".join(filter(None, [note, f"still being stopped by {stopping[name]}"]))
        rows.append((name, step.state.value, str(len(step.attempts)), took, note))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join(
            [*(cell.ljust(width) for cell, width in zip(row[:4], widths, strict=True)), row[4]]
        ).rstrip()
        for row in rows
    )


def _reused_text(step: StepRecord) -> str:
    if step.reused is None or not step.is_reused:
        return ""
    return f"taken over from attempt {step.reused.attempt} of run {step.reused.run_id}"


def _note(record: RunRecord, name: str, step: StepRecord) -> str:
    if step.state is StepState.SUCCEEDED:
        return _reused_text(step) or differences_text(record.differences(name))
    if step.state is StepState.SKIPPED:
        return SKIP_REASON
    if step.because:
        return f"because of {step.because}"
    if step.state is StepState.CANCELLED:
        return (
            step.cancel_reason
            if step.cancel_reason and step.cancel_reason != record.cancel_reason
            else ""
        )
    if step.attempts and step.attempts[-1].error:
        return step.attempts[-1].error.line
    return ""
