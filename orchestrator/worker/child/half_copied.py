"""Files of the user that are being copied just now: an import waits for them, for some seconds of
each attempt.

It waits in the import itself, at the beginning of a step or in its midst, so that a step which
imports something late need not run again. Only files that were submitted are waited for, and only
while they are not as they were submitted.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

from orchestrator.definition.code import file_digest
from orchestrator.wording import listed

BUDGET_S = 5.0  # of one attempt
# a valid file that nobody has written to for so long is taken for whole, and for another version
QUIET_S = 1.0
LOOK_S = 0.1


class HalfCopied:
    """The files of one folder, of which some may still be on their way."""

    def __init__(self) -> None:
        self._folder = ""
        self._submitted: Mapping[str, str] = {}
        self._left_s = BUDGET_S

    def begin(self, folder: str, submitted: Mapping[str, str]) -> None:
        """Begin with an attempt, whose run was submitted with these SHA-256 of files below a
        folder."""
        self._folder, self._submitted, self._left_s = folder, submitted, BUDGET_S

    def may_wait(self) -> bool:
        """Sleep for a moment, and return True, unless the attempt has waited for too long."""
        if self._left_s <= 0:
            return False
        began = time.monotonic()
        time.sleep(LOOK_S)
        self._left_s -= time.monotonic() - began
        return True

    def unsettled(self) -> list[str]:
        """Return the submitted files that are not here as they were submitted."""
        return [
            file
            for file, digest in self._submitted.items()
            if file_digest(self._path(file)) != digest
        ]

    def missing(self) -> list[str]:
        """Return the submitted files that are not here at all."""
        return [file for file in self._submitted if not os.path.exists(self._path(file))]

    def wait_for(self, path: str) -> None:
        """Wait until a file is as it was submitted, or is whole and another version."""
        digest = self._submitted.get(self._relative(path))
        while digest and file_digest(path) != digest and _may_be_growing(path) and self.may_wait():
            pass

    def wait_for_module(self, place: str, name: str) -> bool:
        """Wait until a module that was submitted in a folder is there. Return False if it was not
        submitted, and if it has not come: then the error says which file is missing."""
        whole = os.path.join(place, name)
        inside = self._relative(whole) + os.sep
        for path in (os.path.join(whole, "__init__.py"), f"{whole}.py", whole):
            file = self._relative(path)
            if file in self._submitted or (
                path == whole and any(submitted.startswith(inside) for submitted in self._submitted)
            ):
                while not os.path.exists(path):
                    if not self.may_wait():
                        raise ModuleNotFoundError(self.missing_text([file]), name=name)
                return True
        return False

    def missing_text(self, files: list[str]) -> str:
        """Return a sentence that names files that are not here."""
        return (
            f"host {socket.gethostname()} lacks {listed(files, 3)} in {self._folder}, though the"
            " run was submitted with it: copy it there, and resume"
        )

    def _path(self, file: str) -> str:
        return os.path.join(self._folder, file)

    def _relative(self, path: str) -> str:
        return os.path.relpath(path, self._folder) if self._folder else path


def _may_be_growing(path: str) -> bool:
    """Whether a file that is not as it was submitted is missing, empty, no Python, or was written
    just now."""
    try:
        status = os.stat(path)
        with open(path, "rb") as file:
            compile(file.read() or b"(", path, "exec", dont_inherit=True)
    except (OSError, SyntaxError, ValueError):
        return True
    return time.time() - QUIET_S < max(status.st_mtime, status.st_ctime) <= time.time()
