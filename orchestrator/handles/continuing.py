"""Resume and rerun for Python programs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.handles.place import here
from orchestrator.plan.plan import Plan
from orchestrator.runs.loading import plan_of
from orchestrator.runs.reloading import definition_of, look_for_artifacts
from orchestrator.runs.rerunning import plan_rerun, read_finished
from orchestrator.runs.rerunning import rerun as start_rerun
from orchestrator.runs.resumption import check_resumable, plan_resume, wait_for_stopping
from orchestrator.runs.resumption import resume as start_resume
from orchestrator.runs.stored import StoredRun, read_run
from orchestrator.runs.submission import new_run_id
from orchestrator.settings.model import Settings


def resume(run_id: str, from_steps: Sequence[str], params: Mapping[str, Any]) -> None:
    """Let a run go on by the pipeline as it is now. Raises ResumeRefused, PipelineInvalid."""
    place = here()
    ledger = place.installation.ledger
    run = read_run(ledger, run_id)
    check_resumable(run, from_steps)
    settings = place.settings_to_run()
    if ledger.stopping(run_id):
        wait_for_stopping(ledger, settings, run_id)
    resumption = plan_resume(
        run,
        _plan(run, params, settings),
        settings,
        from_steps,
        outputs=ledger.outputs(run_id),
        has_artifact=look_for_artifacts(place.installation, settings),
    )
    start_resume(ledger, place.installation.app, resumption)


def rerun(run_id: str, from_steps: Sequence[str], params: Mapping[str, Any]) -> str:
    """Start a run that takes over what another one has computed, and return its id. Raises
    RerunRefused, PipelineInvalid."""
    place = here()
    ledger = place.installation.ledger
    finished = read_finished(ledger, read_run(ledger, run_id))
    settings = place.settings_to_run()
    planned = plan_rerun(
        finished,
        _plan(finished.run, params, settings),
        settings,
        from_steps,
        has_artifact=look_for_artifacts(place.installation, settings),
    )
    new_id = new_run_id()
    start_rerun(ledger, place.installation.app, planned, new_id)
    return new_id


def _plan(run: StoredRun, params: Mapping[str, Any], settings: Settings) -> Plan:
    definition = definition_of(run, params, lambda text: warnings.warn(text, stacklevel=4))
    return plan_of(definition, params, settings, run.params).plan
