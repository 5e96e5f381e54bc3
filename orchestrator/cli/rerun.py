"""`orchestrator rerun`: a new run that takes over what another one has computed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

from orchestrator.artifacts.marker import read_marker
from orchestrator.artifacts.store import Artifact, FolderStore
from orchestrator.cli.answer import answer, json_option, reserve_stdout
from orchestrator.cli.foreground import finish, follow_to_the_end, stop_signals, warn_of_slots, workplace
from orchestrator.cli.loading import plan_of
from orchestrator.cli.main import INTERRUPTED
from orchestrator.cli.params import TakesParams, param_option
from orchestrator.cli.reloading import definition_of, named
from orchestrator.cli.session import Session, find_run, open_session
from orchestrator.ledger.store_id import recorded_store
from orchestrator.settings import Settings, settings

if TYPE_CHECKING:
    from orchestrator.coordinator.rerunning import Finished, Rerun


@click.command(cls=TakesParams)
@click.argument("run_text", metavar="RUN")
@click.option("--from", "from_steps", multiple=True, metavar="STEP", help="Run this step and all below it again.")
@param_option("Another value for a param.")
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Step slots; the number of cores, at least 2.")
@click.option("--detach", is_flag=True, help="Leave the run to the workers of the server, as submit does.")
@json_option("Print the run's record as JSON at its end.")
@click.pass_context
def rerun(
    ctx: click.Context,
    run_text: str,
    from_steps: tuple[str, ...],
    params: tuple[str, ...],
    workers: int | None,
    detach: bool,
    as_json: bool,
) -> None:
    """Start a new run that takes over the outputs of another one, and runs the rest.

    Run again are the steps of --from, those that read a param of -p that is another one now, those that are called or
    wired otherwise now, those that did not succeed, and all below them. The other run stays as it is. Works as `run`
    does, and has the same exit codes.
    """
    chosen = settings()
    warn_of_slots(chosen, workers)
    if detach and chosen.redis_url is None:
        raise click.UsageError("--detach leaves the run to a server's workers, and there is none: set "
                               "ORCHESTRATOR_REDIS_URL.")  # fmt: skip
    with stop_signals() as interruption:
        try:
            from orchestrator.coordinator.submission import new_run_id

            run_id = new_run_id()
            if detach:
                reserve_stdout()  # for the id
                with open_session() as session:
                    planned = _plan(session, chosen, _finished(session, run_text), from_steps, params)
                    _begin(session, planned, run_id)
                    answer(json.dumps({"run_id": run_id, "pipeline": planned.pipeline}) if as_json else run_id)
                return
            with workplace(chosen, workers, lambda it: _finished(it, run_text)) as (session, local):
                used = local.settings if local else chosen
                planned = _plan(session, used, _finished(session, run_text), from_steps, params)
                record, code = follow_to_the_end(
                    session,
                    local,
                    interruption,
                    run_id,
                    lambda: _begin(session, planned, run_id),
                    as_json=as_json,
                )
        except KeyboardInterrupt:
            click.echo("interrupted" if interruption.is_repeated() else "cancelled before the run began", err=True)
            ctx.exit(INTERRUPTED)
    finish(ctx, record, code, as_json)


def _finished(session: Session, run_text: str) -> Finished:
    from orchestrator.coordinator.recorded import read_run
    from orchestrator.coordinator.rerunning import read_finished

    return read_finished(session.ledger, read_run(session.ledger, find_run(session.ledger, run_text)))


def _plan(
    session: Session, used: Settings, finished: Finished, from_steps: Sequence[str], params: Sequence[str]
) -> Rerun:
    """Return what is to be done, by the pipeline as it is now; say what a person should know of it."""
    from orchestrator.coordinator.rerunning import plan_rerun

    run = finished.run
    plan, _ = plan_of(definition_of(run, params), params, used, run.params)
    planned = plan_rerun(finished, plan, used, from_steps, has_artifact=_look_for_artifacts(session, used))
    for line in rerun_lines(planned):
        click.echo(line, err=True)
    return planned


def _begin(session: Session, planned: Rerun, run_id: str) -> None:
    from orchestrator.coordinator.rerunning import rerun as start_rerun

    start_rerun(session.ledger, session.app, planned, run_id)


def _look_for_artifacts(session: Session, used: Settings) -> Callable[[Artifact], bool]:
    """Return what says whether an artifact is still there; where this machine has not the workers' store, all are."""
    store = recorded_store(session.ledger.client, session.ledger.prefix)
    if session.is_embedded or (store and read_marker(used.artifact_root) == store["id"]):
        return FolderStore(used.artifact_root).has
    return lambda artifact: True


def rerun_lines(planned: Rerun) -> list[str]:
    """Return what of a rerun may be a surprise."""
    lines = [
        f"step {name} is run again: its output {path} is not in the artifact store any more"
        for name, path in planned.missing.items()
    ]
    lines += named(planned.differing, "run again, since they are called or wired otherwise now")
    lines += named(planned.new, "new in the pipeline")
    lines += named(planned.gone, "no longer in the pipeline")
    lines += named(planned.code_changed, f"changed since run {planned.of} was last started")
    if len(planned.reused) == len(planned.plan.pipeline.steps):
        lines.append("nothing is run again: every step is taken over. --from STEP runs one and all below it")
    return lines
