"""`orchestrator submit`: start a run and leave it to the workers."""

from __future__ import annotations

import json

import click

from orchestrator.cli.loading import load_plan
from orchestrator.cli.session import open_session
from orchestrator.cli.summary import unserved_text
from orchestrator.definition.loading import absolute_target
from orchestrator.settings import settings


@click.command()
@click.argument("target", metavar="FILE[:NAME]")
@click.option("-p", "--param", "params", multiple=True, metavar="KEY=VALUE", help="A param of the run.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def submit(target: str, params: tuple[str, ...], as_json: bool) -> None:
    """Start a run, print its id, and leave it to the workers of the server."""
    from orchestrator.coordinator.submission import submit as submit_plan
    from orchestrator.coordinator.waiting import unserved_steps
    from orchestrator.ledger.record import read_record

    plan, _ = load_plan(target, params, settings())
    with open_session() as session:
        run_id = submit_plan(plan, session.ledger, session.app, session.settings, target=absolute_target(target))
        for pool, steps in unserved_steps(session.ledger, read_record(session.ledger, run_id).steps).items():
            click.echo(unserved_text(pool, steps), err=True)
    click.echo(json.dumps({"run_id": run_id, "pipeline": plan.pipeline.name}) if as_json else run_id)
