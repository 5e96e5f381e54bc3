"""Whose fault an attempt's error is: its step's, or that of the host and the store."""

from __future__ import annotations

from pathlib import Path

from orchestrator.artifacts.faults import OF_FILE_SYSTEMS, HostFault, StoreUnusable
from orchestrator.artifacts.values import ArtifactStore
from orchestrator.attempt_context import Attempt

CHECKPOINT_BYTES = 16 * 1024 * 1024
"""A store that has less room than that counts as full for a step that could not write its
checkpoint."""


def host_fault_behind(
    error: BaseException, here: Attempt, store: ArtifactStore, root: Path
) -> HostFault | None:
    """Return the fault of the host for which an attempt failed, None if the failure is the step's
    own.

    An OSError of the user's code is the user's, except for one that comes of writing checkpoints:
    the step has asked for their folder, the error names a file in the store or (as that of a write)
    none, and the store cannot be used.
    """
    if isinstance(error, HostFault):
        return error
    if (
        not isinstance(error, OSError)
        or error.errno not in OF_FILE_SYSTEMS
        or not here.has_checkpoints
    ):
        return None
    if isinstance(error.filename, str) and not error.filename.startswith(str(root)):
        return None
    try:
        store.files.check(CHECKPOINT_BYTES)
    except StoreUnusable as fault:
        return fault
    return None
