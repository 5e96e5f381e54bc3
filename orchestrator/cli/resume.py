"""`orchestrator resume`: a run that ended goes on in its own record."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from orchestrator.cli.answer import say
from orchestrator.cli.continuation import Asked, Planned, continuing_command, go_on
from orchestrator.installation import Installation
from orchestrator.runs.finding import find_run
from orchestrator.runs.reloading import NAMED_STEPS, missing_lines, named
from orchestrator.settings.model import Settings

if TYPE_CHECKING:
    from orchestrator.runs.resumption import Resumption
    from orchestrator.runs.stored import StoredRun


@continuing_command
def resume(ctx: click.Context, run_text: str, asked: Asked) -> None:
    """Continue a run that failed or was cancelled.

    Steps that succeeded keep their outputs, unless a step above them runs again. All other steps
    run, with the pipeline as it is now. Exit codes are those of `run`. A run that succeeded is not
    resumed: see `rerun`.
    """
    go_on(
        ctx,
        asked,
        lambda installation: _find(installation, run_text, asked),
        lambda installation, used, run: _plan(installation, used, run, asked),
        too_early="cancelled before it was resumed",
    )


def _find(installation: Installation, run_text: str, asked: Asked) -> StoredRun:
    from orchestrator.runs.continuing import read_resumable

    return read_resumable(installation, find_run(installation.ledger, run_text), asked.wanted)


def _plan(installation: Installation, used: Settings, run: StoredRun, asked: Asked) -> Planned:
    """Return what is to be done, and say what a person should know of it."""
    from orchestrator.runs.continuing import resumption_of
    from orchestrator.runs.resumption import resume as resume_run

    resumption = resumption_of(installation, used, run, asked.wanted)
    for line in resumption_lines(resumption):
        say(line)
    return Planned(
        run.run_id,
        resumption.pipeline,
        lambda: resume_run(installation.ledger, installation.app, resumption),
        resumption.last_event,
    )


def resumption_lines(resumption: Resumption) -> list[str]:
    """Return what of a resume may be a surprise."""
    lines = missing_lines(resumption.missing)
    for name in resumption.differing[:NAMED_STEPS]:
        lines.append(f"step {name} succeeded with other arguments; --from {name} runs it again")
    if more := len(resumption.differing) - NAMED_STEPS:
        lines += [f"… and {more:,} more such steps"] if more > 0 else []
    lines += named(
        resumption.judged_anew, "succeeded, but are decided anew with what is above them"
    )
    lines += named(resumption.new, "new in the pipeline")
    lines += named(resumption.gone, "no longer in the pipeline")
    return lines + named(resumption.code_changed, "changed since the run was last started")
