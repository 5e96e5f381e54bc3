"""The pipeline of a run that there was: from where it was loaded, or as it was recorded."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.artifacts.reference import Artifact
from orchestrator.artifacts.values import ArtifactStore
from orchestrator.definition.folders import put_on_path
from orchestrator.definition.loading import Definition, is_there
from orchestrator.errors import PipelineInvalid
from orchestrator.runs.loading import import_own_modules, load_definition
from orchestrator.runs.stores import has_store
from orchestrator.settings.model import Settings
from orchestrator.wording import listed

if TYPE_CHECKING:
    from orchestrator.installation import Installation
    from orchestrator.runs.stored import StoredRun

NAMED_STEPS = 5  # of each kind that is reported


def definition_of(
    run: StoredRun, params: Sequence[str] | Mapping[str, Any], say: Callable[[str], object]
) -> Definition:
    """Return the pipeline as it is now where it was loaded from; where there is nothing any more,
    as it was recorded.

    `params` are key=value texts, or values by name; `say` is given why the recorded one is taken.
    Raises PipelineInvalid.
    """
    from orchestrator.runs.stored import StoredDefinition

    import_own_modules()
    if (path := run.fields["import_path"]) and path not in sys.path:
        put_on_path(path)  # a module is found from any folder, as a file is
    if run.target and is_there(run.target):
        return _loaded(run)
    why = (
        f"there is no {run.target} any more"
        if run.target
        else "the record does not say where its pipeline is from"
    )
    recorded = StoredDefinition(run)
    names = [name for name in (pair.partition("=")[0] for pair in params) if name in run.params]
    if fixed := [name for name in names if name not in recorded.params]:
        raise PipelineInvalid(
            recorded.name,
            [
                f"param {name!r} cannot be changed: {why}, and its value went into the steps when"
                " they were made. Bring the pipeline back, or leave -p out."
                for name in fixed
            ],
        )
    say(f"{why}: the steps are run as they were recorded")
    return recorded


def _loaded(run: StoredRun) -> Definition:
    try:
        return load_definition(run.target)
    except PipelineInvalid:
        # The file may hold more than one pipeline by now; the run knows which one it is of.
        with contextlib.suppress(PipelineInvalid):
            return load_definition(f"{run.target}:{run.fields['pipeline']}")
        raise


def look_for_artifacts(installation: Installation, used: Settings) -> Callable[[Artifact], bool]:
    """Return what says whether an artifact is still there; where this machine has not the workers'
    store, all are."""
    if has_store(installation.ledger, used, is_embedded=installation.is_embedded):
        return ArtifactStore.in_folder(used.artifact_root).has
    return lambda artifact: True


def missing_lines(missing: Mapping[str, str]) -> list[str]:
    """Return a line for each step that is run again for want of its output, given with the output's
    path."""
    return [
        f"step {name} is run again: its output {path} is not in the artifact store any more"
        for name, path in missing.items()
    ]


def named(names: Sequence[str], what: str) -> list[str]:
    """Return a line that names some steps or files of a kind, none if there are none."""
    return [f"{what}: {listed(names, NAMED_STEPS)}"] if names else []
