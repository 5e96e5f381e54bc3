"""Resume and rerun for Python programs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.handles.place import here
from orchestrator.runs.continuing import (
    Wanted,
    read_resumable,
    read_reusable,
    rerun_of,
    resumption_of,
)
from orchestrator.runs.rerunning import rerun as start_rerun
from orchestrator.runs.resumption import resume as start_resume
from orchestrator.runs.submission import new_run_id


def resume(run_id: str, from_steps: Sequence[str], params: Mapping[str, Any]) -> None:
    """Let a run go on by the pipeline as it is now. Raises ResumeRefused, PipelineInvalid."""
    place, wanted = here(), Wanted(from_steps, params, _warn)
    installation = place.installation
    run = read_resumable(installation, run_id, wanted)
    resumption = resumption_of(installation, place.settings_to_run(), run, wanted)
    start_resume(installation.ledger, installation.app, resumption)


def rerun(run_id: str, from_steps: Sequence[str], params: Mapping[str, Any]) -> str:
    """Start a run that takes over what another one has computed, and return its id. Raises
    RerunRefused, PipelineInvalid."""
    place, wanted = here(), Wanted(from_steps, params, _warn)
    installation = place.installation
    finished = read_reusable(installation, run_id)
    planned = rerun_of(installation, place.settings_to_run(), finished, wanted)
    new_id = new_run_id()
    start_rerun(installation.ledger, installation.app, planned, new_id)
    return new_id


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=2)
