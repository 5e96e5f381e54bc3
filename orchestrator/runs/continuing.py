"""From a run that has ended to one that goes on: what a resume or a rerun looks up and plans, for
commands and for programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.installation import Installation
from orchestrator.plan.plan import Plan
from orchestrator.runs.loading import Ask, nobody_to_ask, plan_of
from orchestrator.runs.reloading import definition_of, look_for_artifacts
from orchestrator.runs.rerunning import Finished, Rerun, plan_rerun, read_finished
from orchestrator.runs.resumption import (
    Resumption,
    check_resumable,
    plan_resume,
    wait_for_stopping,
)
from orchestrator.runs.stored import StoredRun, read_run
from orchestrator.settings.model import Settings


@dataclass(frozen=True)
class Wanted:
    """How a run is to go on.

    `params` are key=value texts, or values by name. `say` gets what a person should know before
    anything begins; `ask` returns the secrets that somebody knows.
    """

    from_steps: Sequence[str] = ()
    params: Sequence[str] | Mapping[str, Any] = ()
    say: Callable[[str], object] = field(default=lambda text: None)
    ask: Ask = nobody_to_ask


def read_resumable(installation: Installation, run_id: str, wanted: Wanted) -> StoredRun:
    """Return a run that can be resumed. Raises ResumeRefused, RunNotFound."""
    run = read_run(installation.ledger, run_id)
    check_resumable(run, wanted.from_steps)
    return run


def resumption_of(
    installation: Installation, settings: Settings, run: StoredRun, wanted: Wanted
) -> Resumption:
    """Return what a resume of this run does, by the pipeline as it is now, once its cancelled steps
    are stopped. Raises ResumeRefused, PipelineInvalid."""
    ledger = installation.ledger
    if ledger.stopping(run.run_id):
        wanted.say(f"run {run.run_id}: waiting until its cancelled steps are stopped")
        wait_for_stopping(ledger, settings, run.run_id)
    return plan_resume(
        run,
        _plan_now(run, settings, wanted),
        settings,
        wanted.from_steps,
        outputs=ledger.outputs(run.run_id),
        has_artifact=look_for_artifacts(installation, settings),
    )


def read_reusable(installation: Installation, run_id: str) -> Finished:
    """Return what a run has computed that has ended. Raises RerunRefused, RunNotFound."""
    return read_finished(installation.ledger, read_run(installation.ledger, run_id))


def rerun_of(
    installation: Installation, settings: Settings, finished: Finished, wanted: Wanted
) -> Rerun:
    """Return what a rerun does, by the pipeline as it is now. Raises RerunRefused,
    PipelineInvalid."""
    return plan_rerun(
        finished,
        _plan_now(finished.run, settings, wanted),
        settings,
        wanted.from_steps,
        has_artifact=look_for_artifacts(installation, settings),
    )


def _plan_now(run: StoredRun, settings: Settings, wanted: Wanted) -> Plan:
    definition = definition_of(run, wanted.params, wanted.say)
    return plan_of(definition, wanted.params, settings, run.params, wanted.ask).plan
