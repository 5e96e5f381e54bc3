"""Where values too large or too special for the ledger are kept. A folder today; the contract is
the seam for more."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import logging
import os
import secrets
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from orchestrator.artifacts.faults import InputUnreadable, StoreUnusable, free_bytes, store_faults
from orchestrator.artifacts.marker import MARKER
from orchestrator.artifacts.pickles import ReadAt, read_pickle, write_pickle
from orchestrator.attempt_id import AttemptId
from orchestrator.permissions import PRIVATE, Permissions

logger = logging.getLogger(__name__)

PROBE_BYTES = 4096
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True, slots=True)
class Artifact:
    """A stored value. `path` is relative to the store; `kind` names the value's Python type, for
    people; `python` is the version that pickled it, as "3.11"."""

    path: str
    sha256: str
    size_bytes: int
    kind: str
    python: str = ""  # of an older store: not known

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def shown(self) -> dict[str, Any]:
        """Return what people and programs are shown of it."""
        return {name: value for name, value in asdict(self).items() if name != "python"}


class ArtifactMissing(Exception):
    """The store has no such artifact, or not with the bytes that were recorded."""


class ArtifactOfAnotherPython(Exception):
    """A value could not be unpickled, and another version of Python had pickled it."""


class ArtifactStore(Protocol):
    """Keeps values; safe for many writers, because no two attempts write the same path.

    Every method raises StoreUnusable when it is the store that fails, not what it was asked for.
    """

    def save(self, attempt: AttemptId, token: int, value: Any) -> Artifact:
        """Store a value under a path private to the attempt; it is there for others once the commit
        names it."""

    def load(self, artifact: Artifact) -> Any:
        """Return the value back. Raises ArtifactMissing when it is gone or its SHA-256 differs."""

    def has(self, artifact: Artifact) -> bool:
        """Return whether there is such an artifact, by its size; its bytes are not read."""

    def make_folder(self, folder: Path) -> Path:
        """Return a folder inside the store, made if need be."""

    def check(self, needed_bytes: int = 0) -> None:
        """Raise StoreUnusable unless something can be written here and read again, with room for
        `needed_bytes`."""


class _HashingWriter:
    """Writes to a file, and knows the SHA-256 and the size of what was written, also of what did
    not fit."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        # else it would be taken for one of the value's own code, which runs meanwhile
        self._fault: OSError | None = None
        self.size = 0

    def write(self, data: Any) -> None:
        self._sha256.update(data)
        self.size += memoryview(data).nbytes
        if self._fault is None:
            try:
                self._file.write(data)
            except OSError as error:
                self._fault = error

    def finish(self) -> None:
        """Bring all to the disk. Raises the OSError that there was meanwhile."""
        if self._fault:
            raise self._fault
        self._file.flush()
        os.fsync(self._file.fileno())

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()


class _InputFile(io.FileIO):
    """A file of the store whose errors are told from those of the code that is run while it is
    read."""

    def __init__(self, path: Path, root: Path) -> None:
        super().__init__(path, "rb")
        self._root = root

    def readinto(self, buffer: Any) -> int | None:
        with store_faults("read from", self._root, kind=InputUnreadable):
            return super().readinto(buffer)

    def read_at(self, piece: memoryview, at: int) -> int:
        """Fill a part of a buffer from a place in the file, past Python's own buffers. Return the
        bytes read."""
        with store_faults("read from", self._root, kind=InputUnreadable):
            return os.preadv(self.fileno(), [piece], at)


def _read(file: BinaryIO, read_at: ReadAt, artifact: Artifact) -> Any:
    """Unpickle a file, and say so where another version of Python has pickled it: its error may
    come of that."""
    if artifact.python in ("", PYTHON):
        return read_pickle(file, read_at)
    told = (
        f"artifact {artifact.path} was pickled by Python {artifact.python}, and is read by Python"
        f" {PYTHON}"
    )
    logger.warning("%s", told)
    try:
        return read_pickle(file, read_at)
    except StoreUnusable:
        raise
    except Exception as error:
        raise ArtifactOfAnotherPython(f"{told}: {type(error).__name__}: {error}") from error


class FolderStore:
    """Artifacts as pickles in a folder that all workers share (one machine, or a network file
    system)."""

    def __init__(
        self, root: Path, *, is_marked: bool = False, permissions: Permissions = PRIVATE
    ) -> None:
        """`is_marked`: the folder bears a marker; without it the folder is not the store, but what
        a mount hid."""
        self.root = root
        self._permissions = permissions
        self._is_marked = is_marked

    def save(self, attempt: AttemptId, token: int, value: Any) -> Artifact:
        name = f"{attempt.step}.attempt-{attempt.attempt}.token-{token}.pickle"
        path = self.root / attempt.run_id / name
        with store_faults("write to", self.root):
            self._see_marker()
            self._permissions.make_folder(path.parent)
            # in place: nobody knows the path before the commit names it
            file = self._permissions.open_new(path)
        writer = _HashingWriter(file)
        try:
            write_pickle(value, writer.write)
            with store_faults("write to", self.root, writer.size):
                writer.finish()
        except BaseException:
            with contextlib.suppress(OSError):
                path.unlink()  # a part of it is of no use, and may be what fills the store
            raise
        finally:
            with contextlib.suppress(OSError):
                file.close()
        kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
        return Artifact(str(path.relative_to(self.root)), writer.sha256, writer.size, kind, PYTHON)

    def load(self, artifact: Artifact) -> Any:
        path = self.root / artifact.path
        with store_faults("read from", self.root, kind=InputUnreadable):
            try:
                raw = _InputFile(path, self.root)
            except (FileNotFoundError, NotADirectoryError):
                self._see_marker()
                raise ArtifactMissing(
                    f"artifact {artifact.path} is not in {self.root}. Do all workers share this"
                    " folder (artifact_dir)?"
                ) from None
        with io.BufferedReader(raw) as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != artifact.sha256:
                # before any of it is believed
                raise ArtifactMissing(
                    f"artifact {path} has other bytes than were recorded (SHA-256 differs)"
                )
            return _read(file, raw.read_at, artifact)

    def has(self, artifact: Artifact) -> bool:
        with store_faults("read from", self.root, kind=InputUnreadable):
            try:
                return (self.root / artifact.path).stat().st_size == artifact.size_bytes
            except (FileNotFoundError, NotADirectoryError):
                return False

    def make_folder(self, folder: Path) -> Path:
        with store_faults("write to", self.root):
            if not folder.is_dir():
                self._see_marker()
                self._permissions.make_folder(folder)
        return folder

    def check(self, needed_bytes: int = 0) -> None:
        """Raise StoreUnusable unless something can be written here and read again, with room for
        `needed_bytes`."""
        probe = self.root / f".probe-{secrets.token_hex(8)}"
        data = secrets.token_bytes(PROBE_BYTES)
        with store_faults("use", self.root, needed_bytes):
            self._see_marker()
            self._permissions.make_folder(self.root)
            if free_bytes(self.root) < needed_bytes:
                raise OSError(
                    errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {needed_bytes:,} bytes are needed"
                )
            try:
                with self._permissions.open_new(probe) as file:
                    if needed_bytes > PROBE_BYTES and hasattr(os, "posix_fallocate"):
                        os.posix_fallocate(file.fileno(), 0, needed_bytes)  # a quota shows only so
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                with probe.open("rb") as file:
                    if file.read(PROBE_BYTES) != data:
                        raise OSError(errno.EIO, "what was written is not what is read")
            finally:
                with contextlib.suppress(OSError):
                    probe.unlink()

    def _see_marker(self) -> None:
        if self._is_marked and not os.path.lexists(self.root / MARKER):
            raise OSError(errno.ENODEV, f"its marker {MARKER} is gone. Is the folder mounted?")
