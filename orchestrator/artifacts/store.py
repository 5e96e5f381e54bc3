"""Bytes by path: a folder today; the contract is the seam for more. What the bytes mean is not
known here.

Every method raises StoreUnusable when it is the store that fails, not what it was asked for.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from orchestrator.artifacts.faults import InputUnreadable, free_bytes, store_faults
from orchestrator.artifacts.layout import run_folder
from orchestrator.artifacts.marker import MARKER
from orchestrator.errors import ArtifactMissing
from orchestrator.permissions import PRIVATE, Permissions

PROBE_BYTES = 4096


class HashingWriter:
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


class InputFile(io.FileIO):
    """A file of the store whose errors are kept apart from those of the code that is run while
    it is read."""

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


class ByteStore(Protocol):
    """Keeps bytes by path; safe for many writers, because no two write the same path."""

    @property
    def root(self) -> Path:
        """Folder in which checkpoints lie."""

    def write(self, path: str) -> AbstractContextManager[HashingWriter]:
        """Write a new file inside the block. It stays if the block ends well; its bytes are on the
        disk then."""

    def open(self, path: str) -> InputFile:
        """Return a file to read. Raises ArtifactMissing."""

    def size(self, path: str) -> int | None:
        """Return the size of a file in bytes, None if there is none."""

    def make_folder(self, folder: Path) -> Path:
        """Return a folder inside the store, made if need be."""

    def measure(self, run_id: str) -> tuple[int, int]:
        """Return size in bytes and number of all files of a run."""

    def remove(self, run_id: str) -> None:
        """Remove all files of a run; nothing happens where there are none."""

    def check(self, needed_bytes: int = 0) -> None:
        """Raise StoreUnusable unless something can be written here and read again, with room for
        `needed_bytes`."""


class FolderStore:
    """Files in a folder that all workers share (one machine, or a network file system)."""

    def __init__(
        self, root: Path, *, is_marked: bool = False, permissions: Permissions = PRIVATE
    ) -> None:
        """`is_marked`: the folder bears a marker; without it the folder is not the store, but what
        a mount hid."""
        self.root = root
        self._permissions = permissions
        self._is_marked = is_marked

    @contextlib.contextmanager
    def write(self, path: str) -> Iterator[HashingWriter]:
        place = self.root / path
        with store_faults("write to", self.root):
            self._see_marker()
            self._permissions.make_folder(place.parent)
            # in place: nobody knows the path before the commit names it
            file = self._permissions.open_new(place)
        writer = HashingWriter(file)
        try:
            yield writer
            with store_faults("write to", self.root, writer.size):
                writer.finish()
        except BaseException:
            with contextlib.suppress(OSError):
                place.unlink()  # a part of it is of no use, and may be what fills the store
            raise
        finally:
            with contextlib.suppress(OSError):
                file.close()

    def open(self, path: str) -> InputFile:
        with store_faults("read from", self.root, kind=InputUnreadable):
            try:
                return InputFile(self.root / path, self.root)
            except (FileNotFoundError, NotADirectoryError):
                self._see_marker()
                raise ArtifactMissing(
                    f"artifact {path} is not in {self.root}. Do all workers share this folder"
                    " (artifact_dir)?"
                ) from None

    def size(self, path: str) -> int | None:
        with store_faults("read from", self.root, kind=InputUnreadable):
            try:
                return (self.root / path).stat().st_size
            except (FileNotFoundError, NotADirectoryError):
                return None

    def make_folder(self, folder: Path) -> Path:
        with store_faults("write to", self.root):
            if not folder.is_dir():
                self._see_marker()
                self._permissions.make_folder(folder)
        return folder

    def measure(self, run_id: str) -> tuple[int, int]:
        sizes = []
        for folder, _, names in os.walk(run_folder(self.root, run_id)):
            for name in names:
                with contextlib.suppress(OSError):
                    sizes.append(os.lstat(os.path.join(folder, name)).st_size)
        return sum(sizes), len(sizes)

    def remove(self, run_id: str) -> None:
        folder = run_folder(self.root, run_id)
        with store_faults("delete from", self.root):
            if not os.path.lexists(folder):
                self._see_marker()
            elif folder.is_symlink() or not folder.is_dir():
                folder.unlink()
            else:
                _remove_tree(folder)

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


def _remove_tree(folder: Path) -> None:
    """Remove a folder, of which somebody else may remove a part meanwhile."""
    while os.path.lexists(folder):
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)
