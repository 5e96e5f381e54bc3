"""Values in a store: which path they have, how they are serialized, and whether they are what was
recorded."""

from __future__ import annotations

import hashlib
import io
import logging
import sys
from pathlib import Path
from typing import Any, BinaryIO

from orchestrator.artifacts.faults import StoreUnusable
from orchestrator.artifacts.layout import artifact_path
from orchestrator.artifacts.reference import Artifact
from orchestrator.artifacts.serializers.pickles import ReadAt, read_pickle, write_pickle
from orchestrator.artifacts.store import ByteStore, FolderStore
from orchestrator.attempt_id import AttemptId
from orchestrator.errors import ArtifactMissing, ArtifactOfAnotherPython
from orchestrator.permissions import PRIVATE, Permissions

logger = logging.getLogger(__name__)

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


class ArtifactStore:
    """Keeps values that are too large or too special for the ledger. Every method raises
    StoreUnusable when it is the store that fails, not what it was asked for."""

    def __init__(self, files: ByteStore) -> None:
        self.files = files

    @classmethod
    def in_folder(
        cls, root: Path, *, is_marked: bool = False, permissions: Permissions = PRIVATE
    ) -> ArtifactStore:
        """Return the store of a folder. `is_marked`: it bears a marker; without it the folder is
        not the store, but what a mount hid."""
        return cls(FolderStore(root, is_marked=is_marked, permissions=permissions))

    def save(self, attempt: AttemptId, token: int, value: Any) -> Artifact:
        """Store a value under a path private to the attempt; it is there for others once the commit
        names it."""
        path = artifact_path(attempt, token)
        with self.files.write(path) as writer:
            write_pickle(value, writer.write)
        kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
        return Artifact(path, writer.sha256, writer.size, kind, PYTHON)

    def load(self, artifact: Artifact) -> Any:
        """Return the value back. Raises ArtifactMissing when it is gone or its SHA-256 differs."""
        raw = self.files.open(artifact.path)
        with io.BufferedReader(raw) as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != artifact.sha256:
                # before any of it is believed
                raise ArtifactMissing(
                    f"artifact {self.files.root / artifact.path} has other bytes than were recorded"
                    " (SHA-256 differs)"
                )
            return _read(file, raw.read_at, artifact)

    def has(self, artifact: Artifact) -> bool:
        """Return whether there is such an artifact, by its size; its bytes are not read."""
        return self.files.size(artifact.path) == artifact.size_bytes


def _read(file: BinaryIO, read_at: ReadAt, artifact: Artifact) -> Any:
    """Unpickle a file, and say so where another version of Python has pickled it: its error may
    come of that."""
    if artifact.python in ("", PYTHON):
        return read_pickle(file, read_at)
    text = (
        f"artifact {artifact.path} was pickled by Python {artifact.python}, and is read by Python"
        f" {PYTHON}"
    )
    logger.warning("%s", text)
    try:
        return read_pickle(file, read_at)
    except StoreUnusable:
        raise
    except Exception as error:
        raise ArtifactOfAnotherPython(f"{text}: {type(error).__name__}: {error}") from error
