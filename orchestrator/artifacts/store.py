"""Where values too large or too special for the ledger are kept. A folder today; the contract is the seam for more."""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from orchestrator.artifacts.pickles import read_pickle, write_pickle


@dataclass(frozen=True, slots=True)
class Artifact:
    """A stored value. `path` is relative to the store; `kind` names the value's Python type, for people."""

    path: str
    sha256: str
    size_bytes: int
    kind: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class ArtifactMissing(Exception):
    """The store has no such artifact, or not with the bytes that were recorded."""


class ArtifactStore(Protocol):
    """Keeps values; safe for many writers, because no two attempts write the same path."""

    def save(self, run_id: str, step: str, attempt: int, token: int, value: Any) -> Artifact:
        """Store a value under a path private to the attempt; it is there for others once the commit names it."""

    def load(self, artifact: Artifact) -> Any:
        """Give the value back. Raises ArtifactMissing when it is gone or its SHA-256 differs."""


class _HashingWriter:
    """Writes to a file, and knows the SHA-256 and the size of what was written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self.size = 0

    def write(self, data: Any) -> None:
        self._sha256.update(data)
        self._file.write(data)
        self.size += memoryview(data).nbytes

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()


class FolderStore:
    """Artifacts as pickles in a folder that all workers share (one machine, or a network file system)."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def save(self, run_id: str, step: str, attempt: int, token: int, value: Any) -> Artifact:
        path = self.root / run_id / f"{step}.attempt-{attempt}.token-{token}.pickle"
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("wb") as file:  # in place: nobody knows the path before the commit names it
                writer = _HashingWriter(file)
                write_pickle(value, writer.write)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            path.unlink(missing_ok=True)  # a part of it is of no use
            raise
        kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
        return Artifact(str(path.relative_to(self.root)), writer.sha256, writer.size, kind)

    def load(self, artifact: Artifact) -> Any:
        path = self.root / artifact.path
        try:
            file = path.open("rb")
        except FileNotFoundError:
            raise ArtifactMissing(
                f"artifact {artifact.path} is not in {self.root}. Do all workers share this folder (artifact_dir)?"
            ) from None
        with file:
            if hashlib.file_digest(file, "sha256").hexdigest() != artifact.sha256:  # before any of it is believed
                raise ArtifactMissing(f"artifact {path} has other bytes than were recorded (SHA-256 differs)")
            return read_pickle(file)
