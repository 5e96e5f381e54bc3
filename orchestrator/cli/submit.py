"""`orchestrator submit`: start a run and leave it to the workers."""

from __future__ import annotations

import json

import click

from orchestrator.cli.answer import answer, json_option, reserve_stdout
from orchestrator.cli.loading import load_plan
from orchestrator.cli.params import TakesParams, param_option
from orchestrator.cli.session import open_session
from orchestrator.cli.summary import unserved_text
from orchestrator.definition.loading import absolute_target
from orchestrator.settings.sources import settings


@click.command(cls=TakesParams)
@click.argument("target", metavar="FILE[:NAME]")
@param_option()
@json_option()
def submit(target: str, params: tuple[str, ...], as_json: bool) -> None:
    """Start a run, print its id, and leave it to the workers of the server."""
    from orchestrator.coordinator.submission import submit as submit_plan
    from orchestrator.coordinator.waiting import unserved_steps
    from orchestrator.record.run import read_record

    reserve_stdout()  # for the id
    plan, _ = load_plan(target, params, settings())
    with open_session() as session:
        run_id = submit_plan(plan, session.ledger, session.app, session.settings, target=absolute_target(target))
        for unserved in unserved_steps(session.ledger, read_record(session.ledger, run_id).steps):
            click.echo(unserved_text(unserved), err=True)
    answer(json.dumps({"run_id": run_id, "pipeline": plan.pipeline.name}) if as_json else run_id)
