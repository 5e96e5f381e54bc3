"""`orchestrator show`: a run, or one step of it, for people and as JSON."""

from __future__ import annotations

import json

import click

from orchestrator.attempt_id import AttemptId
from orchestrator.cli.answer import answer, json_option
from orchestrator.cli.completion import run_argument, step_argument
from orchestrator.cli.step_details import step_text
from orchestrator.cli.step_table import StepTable
from orchestrator.cli.summary import repairs_text, summary_text
from orchestrator.errors import RunNotFound, names_hint
from orchestrator.installation import open_installation
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.states import StepState
from orchestrator.record.as_json import record_json
from orchestrator.record.run import RunRecord, read_record
from orchestrator.runs.finding import find_run
from orchestrator.runs.surroundings import look_around
from orchestrator.times import rfc3339


@click.command()
@run_argument()
@step_argument(required=False)
@click.option("--failed", is_flag=True, help="Show only the steps that failed.")
@click.option("--items", is_flag=True, help="Show each item of a fan-out in a row of its own.")
@json_option()
def show(run_text: str, step: str | None, failed: bool, items: bool, as_json: bool) -> None:
    """Show the steps of a run, or one step in full.

    Steps have state, attempts, time, worker and error; items of a fan-out, such as train[1] and
    train[2], share a row. With STEP: each attempt, the arguments and the output.
    """
    with open_installation() as installation:
        ledger = installation.ledger
        record = read_record(ledger, find_run(ledger, run_text))
        if step is not None and step not in record.steps:
            raise RunNotFound(
                f"run {record.run_id} has no step {step!r}.{names_hint(step, record.steps)}"
            )
        if as_json:
            whole = record_json(record)
            answer(json.dumps(whole["steps"][step] if step else whole))
            return
        if step is not None:
            click.echo(step_text(record, step))
            return
        around = None if record.state.is_ended else look_around(ledger, record.run_id)
        stopping = {attempt.step: attempt.worker for attempt in ledger.stopping(record.run_id)}
        logs = _logs_of_failed(ledger, record)
    table = StepTable(record, around, stopping)
    if failed:
        click.echo(table.failed_text())
        return
    click.echo(table.text(shows_items=items))
    click.echo(summary_text(record, logs) if record.state.is_ended else _standing_text(record))


def _logs_of_failed(ledger: Ledger, record: RunRecord) -> dict[str, list[str]]:
    return {
        name: ledger.log_lines(AttemptId(record.run_id, name, step.attempts[-1].attempt))
        for name, step in record.steps.items()
        if step.state is StepState.FAILED and step.attempts
    }


def _standing_text(record: RunRecord) -> str:
    """Return where a run is that goes on."""
    times = "once" if record.resumes == 1 else f"{record.resumes} times"
    resumed = (
        f", resumed {times}, last at {rfc3339(record.resumed_at_us)}" if record.resumes else ""
    )
    rerun = f", a rerun of {record.rerun_of}" if record.rerun_of else ""
    text = f"run {record.run_id} is {record.state.value}{rerun}{resumed}"
    return f"{text}\n{repairs_text(record)}" if record.repairs else text
