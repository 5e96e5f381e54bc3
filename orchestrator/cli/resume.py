"""`orchestrator resume`: a run that ended goes on in its own record."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from orchestrator.cli.answer import answer, json_option, reserve_stdout
from orchestrator.cli.foreground import (
    finish,
    follow_to_the_end,
    stop_signals,
    warn_of_slots,
    workplace,
)
from orchestrator.cli.loading import plan_of
from orchestrator.cli.main import INTERRUPTED
from orchestrator.cli.params import TakesParams, param_option
from orchestrator.cli.reloading import NAMED_STEPS, definition_of, named
from orchestrator.cli.session import Session, find_run, open_session
from orchestrator.settings import Settings, settings

if TYPE_CHECKING:
    from orchestrator.coordinator.recorded import RecordedRun
    from orchestrator.coordinator.resumption import Resumption


@click.command(cls=TakesParams)
@click.argument("run_text", metavar="RUN")
@click.option("--from", "from_steps", multiple=True, metavar="STEP", help="Run this step and all below it again.")
@param_option("Another value for a param.")
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Step slots; the number of cores, at least 2.")
@click.option("--detach", is_flag=True, help="Leave the run to the workers of the server, as submit does.")
@json_option("Print the run's record as JSON at its end.")
@click.pass_context
def resume(
    ctx: click.Context,
    run_text: str,
    from_steps: tuple[str, ...],
    params: tuple[str, ...],
    workers: int | None,
    detach: bool,
    as_json: bool,
) -> None:
    """Let a run go on that failed or was cancelled.

    Steps that succeeded are kept, unless a step above them runs; all others run, with the pipeline as it is now. Works
    as `run` does, and has the same exit codes. For a run that succeeded there is `rerun`.
    """
    chosen = settings()
    warn_of_slots(chosen, workers)
    if detach and chosen.redis_url is None:
        raise click.UsageError("--detach leaves the run to a server's workers, and there is none: set "
                               "ORCHESTRATOR_REDIS_URL.")  # fmt: skip
    with stop_signals() as interruption:
        try:
            if detach:
                reserve_stdout()  # for the id
                with open_session() as session:
                    run = _resumable(session, run_text, from_steps)
                    resumption = _plan(session, chosen, run, from_steps, params)
                    _resume(session, resumption)
                    card = {"run_id": run.run_id, "pipeline": resumption.pipeline}
                    answer(json.dumps(card) if as_json else run.run_id)
                return
            with workplace(chosen, workers, lambda it: _resumable(it, run_text, from_steps)) as (session, local):
                run = _resumable(session, run_text, from_steps)
                resumption = _plan(session, local.settings if local else chosen, run, from_steps, params)
                record, code = follow_to_the_end(
                    session,
                    local,
                    interruption,
                    run.run_id,
                    lambda: _resume(session, resumption),
                    after=resumption.last_event,
                    as_json=as_json,
                )
        except KeyboardInterrupt:
            click.echo("interrupted" if interruption.is_repeated() else "cancelled before it was resumed", err=True)
            ctx.exit(INTERRUPTED)
    finish(ctx, record, code, as_json)


def _resumable(session: Session, run_text: str, from_steps: Sequence[str]) -> RecordedRun:
    from orchestrator.coordinator.recorded import read_run
    from orchestrator.coordinator.resumption import check_resumable

    run = read_run(session.ledger, find_run(session.ledger, run_text))
    check_resumable(run, from_steps)
    return run


def _plan(
    session: Session, used: Settings, run: RecordedRun, from_steps: Sequence[str], params: Sequence[str]
) -> Resumption:
    """Give what is to be done, by the pipeline as it is now; tell what a person should know of it."""
    from orchestrator.coordinator.resumption import plan_resume, wait_for_stopping

    if session.ledger.stopping(run.run_id):
        click.echo(f"run {run.run_id}: waiting until its cancelled steps are stopped", err=True)
        wait_for_stopping(session.ledger, used, run.run_id)
    plan, _ = plan_of(definition_of(run, params), params, used, run.params)
    resumption = plan_resume(run, plan, session.app, used, from_steps)
    for line in resumption_lines(resumption):
        click.echo(line, err=True)
    return resumption


def _resume(session: Session, resumption: Resumption) -> None:
    from orchestrator.coordinator.resumption import resume as resume_run

    resume_run(session.ledger, session.app, resumption)


def resumption_lines(resumption: Resumption) -> list[str]:
    """Tell what of a resume may be a surprise."""
    lines = []
    for name in resumption.differing[:NAMED_STEPS]:
        lines.append(f"step {name} succeeded with other arguments; --from {name} runs it again")
    if more := len(resumption.differing) - NAMED_STEPS:
        lines += [f"… and {more:,} more such steps"] if more > 0 else []
    lines += named(resumption.judged_anew, "succeeded, but are decided anew with what is above them")
    lines += named(resumption.new, "new in the pipeline")
    lines += named(resumption.gone, "no longer in the pipeline")
    return lines + named(resumption.code_changed, "changed since the run was last started")
