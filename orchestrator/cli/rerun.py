"""`orchestrator rerun`: a new run that takes over what another one has computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from orchestrator.cli.answer import say
from orchestrator.cli.continuation import Asked, Planned, continuing_command, go_on
from orchestrator.installation import Installation
from orchestrator.runs.finding import find_run
from orchestrator.runs.reloading import missing_lines, named
from orchestrator.settings.model import Settings

if TYPE_CHECKING:
    from orchestrator.runs.rerunning import Finished, Rerun


@continuing_command
def rerun(ctx: click.Context, run_text: str, asked: Asked) -> None:
    """Start a new run that takes over the outputs of another one.

    Only these steps run: those of --from, those that read a param which -p changes, those that are
    called or wired differently now, those that did not succeed, and all below them. The other run
    stays as it is. Exit codes are those of `run`.
    """
    go_on(
        ctx,
        asked,
        lambda installation: _find(installation, run_text),
        lambda installation, used, finished: _plan(installation, used, finished, asked),
        too_early="cancelled before the run began",
    )


def _find(installation: Installation, run_text: str) -> Finished:
    from orchestrator.runs.continuing import read_reusable

    return read_reusable(installation, find_run(installation.ledger, run_text))


def _plan(installation: Installation, used: Settings, finished: Finished, asked: Asked) -> Planned:
    """Return what is to be done, and say what a person should know of it."""
    from orchestrator.runs.continuing import rerun_of
    from orchestrator.runs.rerunning import rerun as start_rerun
    from orchestrator.runs.submission import new_run_id

    planned, run_id = rerun_of(installation, used, finished, asked.wanted), new_run_id()
    for line in rerun_lines(planned):
        say(line)
    ledger, app = installation.ledger, installation.app
    return Planned(run_id, planned.pipeline, lambda: start_rerun(ledger, app, planned, run_id))


def rerun_lines(planned: Rerun) -> list[str]:
    """Return what of a rerun may be a surprise."""
    lines = missing_lines(planned.missing)
    lines += named(planned.differing, "run again, since they are called or wired otherwise now")
    lines += named(planned.new, "new in the pipeline")
    lines += named(planned.gone, "no longer in the pipeline")
    lines += named(planned.code_changed, f"changed since run {planned.of} was last started")
    if len(planned.reused) == len(planned.plan.pipeline.steps):
        lines.append(
            "nothing is run again: every step is taken over. --from STEP runs one and all below it"
        )
    return lines
