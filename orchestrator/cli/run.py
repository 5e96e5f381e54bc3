"""`orchestrator run`: one run from start to end, with live progress, in the foreground."""

from __future__ import annotations

import click

from orchestrator.cli.answer import json_option
from orchestrator.cli.completion import target_argument
from orchestrator.cli.foreground import (
    finish,
    follow_to_the_end,
    logs_option,
    stop_signals,
    warn_of_slots,
    workers_option,
)
from orchestrator.cli.main import INTERRUPTED
from orchestrator.cli.params import TakesParams, ask_secrets, labels_option, param_option
from orchestrator.definition.loading import absolute_target
from orchestrator.runs.loading import load_plan
from orchestrator.runs.workplace import workplace
from orchestrator.settings.sources import current_settings


@click.command(cls=TakesParams)
@target_argument()
@param_option()
@labels_option()
@workers_option()
@logs_option()
@json_option("Print the run's record as JSON at its end.")
@click.pass_context
def run(
    ctx: click.Context,
    target: str,
    params: tuple[str, ...],
    labels: dict[str, str],
    workers: int | None,
    with_logs: bool,
    as_json: bool,
) -> None:
    """Run a pipeline to its end.

    With ORCHESTRATOR_REDIS_URL the workers of that server run the steps. Without it a server and
    workers are started for this run, and stopped after it.

    \b
    Exit codes: 0 succeeded, 1 failed or cancelled by somebody,
                2 invalid, 130 cancelled by Ctrl-C.
    """
    settings = current_settings()
    warn_of_slots(settings, workers)
    with stop_signals() as stop_requests:
        try:
            # An invalid pipeline needs no server. Without one, our worker starts up while the
            # pipeline is loaded.
            plan = (
                load_plan(target, params, settings, ask_secrets).plan
                if settings.redis_url
                else None
            )
            with workplace(settings, workers) as (installation, local):
                from orchestrator.runs.submission import new_run_id, submit

                plan = plan or load_plan(target, params, settings, ask_secrets).plan
                run_id, used = new_run_id(), local.settings if local else settings
                record, code = follow_to_the_end(
                    installation,
                    local,
                    stop_requests,
                    run_id,
                    lambda: submit(
                        plan,
                        installation.ledger,
                        installation.app,
                        used,
                        run_id,
                        absolute_target(target),
                        labels,
                    ),
                    as_json=as_json,
                    with_logs=with_logs,
                )
        except KeyboardInterrupt:
            click.echo(
                "interrupted" if stop_requests.is_repeated() else "cancelled before the run began",
                err=True,
            )
            ctx.exit(INTERRUPTED)
    finish(ctx, record, code, as_json)
