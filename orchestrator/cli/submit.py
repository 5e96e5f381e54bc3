"""`orchestrator submit`: start a run and leave it to the workers."""

from __future__ import annotations

import json

import click

from orchestrator.cli.answer import answer, json_option, reserve_stdout
from orchestrator.cli.completion import target_argument
from orchestrator.cli.params import TakesParams, ask_secrets, labels_option, param_option
from orchestrator.cli.summary import unserved_text
from orchestrator.definition.loading import absolute_target
from orchestrator.installation import open_installation
from orchestrator.ledger.presence import refuse_older
from orchestrator.runs.loading import load_plan
from orchestrator.settings.sources import current_settings


@click.command(cls=TakesParams)
@target_argument()
@param_option()
@labels_option()
@json_option()
def submit(target: str, params: tuple[str, ...], labels: dict[str, str], as_json: bool) -> None:
    """Start a run on the workers of the server, and print its id.

    Follow it with: orchestrator logs RUN --follow; orchestrator show RUN.
    """
    from orchestrator.record.run import read_record
    from orchestrator.runs.submission import submit as submit_plan
    from orchestrator.runs.surroundings import unserved_steps

    reserve_stdout()  # for the id
    plan = load_plan(target, params, current_settings(), ask_secrets).plan
    with open_installation() as installation:
        ledger, app = installation.ledger, installation.app
        refuse_older(ledger.client, ledger.prefix)
        run_id = submit_plan(
            plan,
            ledger,
            app,
            installation.settings,
            target=absolute_target(target),
            labels=labels,
        )
        for unserved in unserved_steps(ledger, read_record(ledger, run_id).steps):
            click.echo(unserved_text(unserved), err=True)
    answer(json.dumps({"run_id": run_id, "pipeline": plan.pipeline.name}) if as_json else run_id)
