"""Where things lie in the artifact folder. Paths are relative to it, as a reference keeps them."""

from __future__ import annotations

from pathlib import Path

from orchestrator.attempt_id import AttemptId


def artifact_path(attempt: AttemptId, token: int) -> str:
    """Return the path of an attempt's output. Tokens never come again, so no two writers share
    it."""
    name = f"{attempt.step}.attempt-{attempt.attempt}.token-{token}.pickle"
    return f"{attempt.run_id}/{name}"


def run_folder(root: Path, run_id: str) -> Path:
    """Return the folder of all that a run keeps. Raises ValueError for an id that names another
    place."""
    folder = root / run_id
    if folder.parent != root or run_id.startswith("."):
        raise ValueError(f"{run_id!r} is not the name of a folder")
    return folder


def checkpoint_folder(root: Path, run_id: str, step: str) -> Path:
    """Return the folder of a step's checkpoints, the same for all its attempts in a run."""
    return root / run_id / f"{step}.checkpoints"
