"""`orchestrator why`: what a step waits for, or how it came to its end."""

from __future__ import annotations

import json

import click

from orchestrator.cli.answer import answer, json_option
from orchestrator.cli.completion import run_argument, step_argument
from orchestrator.errors import RunNotFound, names_hint
from orchestrator.installation import open_installation
from orchestrator.runs.finding import find_run


@click.command()
@run_argument()
@step_argument(required=True)
@json_option()
def why(run_text: str, step: str, as_json: bool) -> None:
    """Explain what a step waits for, or how it ended."""
    from orchestrator.runs.one_step import read_around
    from orchestrator.runs.reasons import NAMED_STEPS, explain
    from orchestrator.runs.surroundings import look_around

    with open_installation() as installation:
        ledger = installation.ledger
        record = read_around(ledger, find_run(ledger, run_text), step, NAMED_STEPS)
        if step not in record.steps:
            hint = names_hint(step, ledger.entries(record.run_id))
            raise RunNotFound(f"run {record.run_id} has no step {step!r}.{hint}")
        around = look_around(ledger, record.run_id)
        explanation = explain(ledger, installation.settings, record, step, around)
    if as_json:
        named = {"run_id": record.run_id, "step": step, "state": explanation.state.value}
        answer(json.dumps({**named, "reasons": list(explanation.sentences), **explanation.facts}))
        return
    for sentence in explanation.sentences:
        click.echo(sentence)
