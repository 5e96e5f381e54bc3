"""Where values too large or too special for the ledger are kept. A folder today; the contract is the seam for more."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import cloudpickle


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


class ExactPickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles NumPy's scalars exactly: left to itself, NumPy makes others of some, and drops NUL at the end of text."""

    def reducer_override(self, value: Any) -> Any:
        kind = type(value)
        if kind.__module__ == "numpy" and (plain := _EXACTLY.get(kind.__name__)):
            return kind, (plain(value),)
        return super().reducer_override(value)


_EXACTLY: dict[str, Callable[[Any], Any]] = {
    "longlong": int, "ulonglong": int, "intc": int, "uintc": int, "str_": str.__str__, "bytes_": bytes,
}  # fmt: skip


class FolderStore:
    """Artifacts as pickles in a folder that all workers share (one machine, or a network file system)."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def save(self, run_id: str, step: str, attempt: int, token: int, value: Any) -> Artifact:
        path = self.root / run_id / f"{step}.attempt-{attempt}.token-{token}.pickle"
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        ExactPickler(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
        data = buffer.getvalue()
        with path.open("wb") as file:  # in place: nobody knows the path before the commit names it
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
        return Artifact(str(path.relative_to(self.root)), hashlib.sha256(data).hexdigest(), len(data), kind)

    def load(self, artifact: Artifact) -> Any:
        path = self.root / artifact.path
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise ArtifactMissing(
                f"artifact {artifact.path} is not in {self.root}. Do all workers share this folder (artifact_dir)?"
            ) from None
        if hashlib.sha256(data).hexdigest() != artifact.sha256:
            raise ArtifactMissing(f"artifact {path} has other bytes than were recorded (SHA-256 differs)")
        return pickle.loads(data)
