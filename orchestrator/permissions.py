"""Who else may read what is kept on disk: nobody, unless the settings open the artifact folder to a
group or to all."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO


@dataclass(frozen=True, slots=True)
class Permissions:
    """The mode and the group (None: the process's) of files that are made, whatever the umask."""

    file_mode: int = 0o600
    group_id: int | None = None

    @property
    def folder_mode(self) -> int:
        """The mode of folders: users that may read files may enter; new files get the folder's
        group, if one is set."""
        entry = (self.file_mode & 0o444) >> 2
        return self.file_mode | entry | (stat.S_ISGID if self.group_id is not None else 0)

    def open_new(self, path: Path) -> BinaryIO:
        """Return a file to write, empty."""
        return self._open(path, os.O_TRUNC)

    def open_to_add(self, path: Path) -> BinaryIO:
        """Return a file to write to its end, made if need be."""
        return self._open(path, os.O_APPEND)

    def _open(self, path: Path, how: int) -> BinaryIO:
        descriptor = os.open(
            path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | how, self.file_mode & 0o700
        )
        try:
            self._give(descriptor, self.file_mode)
        except BaseException:
            os.close(descriptor)
            raise
        return os.fdopen(descriptor, "wb")

    def make_folder(self, folder: Path) -> Path:
        """Return a folder, made if need be with those above it. One that is there already stays as
        it is."""
        missing = []
        for place in (folder, *folder.parents):
            if place.exists():
                break
            missing.append(place)
        for place in reversed(missing):
            try:
                place.mkdir(mode=self.folder_mode & 0o700)
            except FileExistsError:
                continue  # another process was faster, and sets its mode
            self._give(place, self.folder_mode)
        folder.mkdir(exist_ok=True)  # raises if it is something else
        return folder

    def _give(self, place: int | Path, mode: int) -> None:
        if self.group_id is not None:
            os.chown(place, -1, self.group_id)
        os.chmod(place, mode)  # after the group: a change of it takes special bits away


PRIVATE = Permissions()
