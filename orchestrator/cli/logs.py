"""`orchestrator logs`: what the steps of a run wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import click

from orchestrator.attempt_id import AttemptId
from orchestrator.cli.answer import answer, json_option
from orchestrator.cli.completion import run_argument, step_argument
from orchestrator.cli.step_table import reused_text
from orchestrator.error_card import ErrorCard
from orchestrator.errors import RunNotFound, names_hint
from orchestrator.installation import open_installation
from orchestrator.ledger.ledger import Ledger
from orchestrator.record.run import StepRecord, read_record
from orchestrator.runs.finding import find_run


@click.command()
@run_argument()
@step_argument(required=False)
@click.option("--attempt", type=click.IntRange(min=1), help="Only this attempt.")
@click.option("-n", "--numbers", is_flag=True, help="Number the lines.")
@click.option("-f", "--follow", is_flag=True, help="Continue until the run has ended.")
@json_option()
def logs(
    run_text: str,
    step: str | None,
    attempt: int | None,
    numbers: bool,
    follow: bool,
    as_json: bool,
) -> None:
    """Print what the steps of a run wrote.

    Of an attempt that failed, with its traceback.
    """
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
            number = f"{line.number}: " if numbers else ""
            if line.missing:
                click.echo(f"{line.head} | … {line.missing:,} lines dropped")
            click.echo(f"{line.head} | {number}{line.text}")


def _logs_of_reused(ledger: Ledger, name: str, step: StepRecord) -> list[dict[str, Any]]:
    """Return what the attempt wrote whose output a step has taken over, where its run is still
    there."""
    assert step.reused is not None
    run_id, attempt = step.reused
    click.echo(f"step {name} was {reused_text(step)}: what that one wrote", err=True)
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


def _error_lines(error: Mapping[str, Any] | None) -> list[str]:
    """Return the traceback of an error; what happened in one line if it has none, as when a worker
    was lost."""
    if not error:
        return []
    card = ErrorCard.from_json(error)
    return card.traceback.rstrip().splitlines() or [card.line]
