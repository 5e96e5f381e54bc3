"""In what a recorded run differs from what its pipeline is now: calls, params, files; and what is
below a step."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.artifacts.reference import Artifact, artifact_of
from orchestrator.definition.pipeline import Step
from orchestrator.ledger.states import StepState
from orchestrator.ledger.values import StagedStep
from orchestrator.record.received import Received
from orchestrator.runs.stored import StoredRun


def state_of(run: StoredRun, step: str) -> StepState:
    return run.states[step][0] if step in run.states else StepState.WAITING


def with_descendants(steps: Mapping[str, Step], begin: Iterable[str]) -> set[str]:
    """Return these steps and all that waits for them, directly or not, by the edges that the user
    wrote."""
    ahead = list(begin)
    if not ahead:
        return set()
    children: dict[str, list[str]] = {}
    for name, step in steps.items():
        for upstream in step.upstream:
            children.setdefault(upstream, []).append(name)
    found = set(ahead)
    while ahead:
        below = [child for child in children.get(ahead.pop(), ()) if child not in found]
        found.update(below)
        ahead += below
    return found


def is_other_call(run: StoredRun, now: StagedStep, params: str) -> bool:
    """Return whether a step that is kept was called otherwise, when it ran, than it would be now.

    Its upstreams are kept too, so that their outputs are those that it read.
    """
    then = run.params_of_success(now.step)
    if then == params and run.ran_as(now):
        return False
    ran, would_run = run.spec_of_success(now.step), now.parsed_spec
    return bool(
        Received(ran, json.loads(then), {}).differences(Received(would_run, json.loads(params), {}))
    )


def missing_artifacts(
    outputs: Mapping[str, str], steps: Iterable[str], has_artifact: Callable[[Artifact], bool]
) -> dict[str, str]:
    """Return, by step, the path of each output that is kept by reference and is not in the artifact
    store any more."""
    missing = {}
    for step in sorted(steps):
        text = outputs.get(step, "")
        artifact = artifact_of(json.loads(text)) if text.startswith('{"$artifact"') else None
        if artifact and not has_artifact(artifact):
            missing[step] = artifact.path
    return missing


def params_that_changed(before: str, now: str) -> dict[str, Any]:
    if before == now:
        return {}
    old, new = json.loads(before), json.loads(now)
    return {
        name: new.get(name)
        for name in {**old, **new}
        if name not in old
        or json.dumps(old[name]) != json.dumps(new.get(name))  # 1, 1.0 and True are equal in Python
    }


def code_now(run: StoredRun, loaded: Mapping[str, str], import_path: str) -> dict[str, str]:
    """Return the files with their SHA-256 as they are now: those that were loaded, and those known
    from before."""
    code = dict(loaded)
    for name in run.code:
        file = Path(import_path, name)
        if name not in code and import_path and file.is_file():
            code[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return code
