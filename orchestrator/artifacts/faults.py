"""Faults of the host, which are not the fault of the step that meets them: the store is full,
read-only, gone.

Only where our own code works with files is an OSError taken for one: what the user's code raises is
the user's.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

# They come from the name or from the step, and would come again on any host. Of descriptors a step
# finds half free (`orchestrator.worker.renewal`), so that it is the step itself that has used them
# up.
_OF_THE_CALLER = {errno.ENAMETOOLONG, errno.EINVAL, errno.EMFILE}
# What a file system says that is full, read-only, broken or gone.
OF_FILE_SYSTEMS = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENXIO, errno.ENODEV,
    errno.ENOTCONN,
    errno.EREMOTEIO if hasattr(errno, "EREMOTEIO") else errno.EIO,
}  # fmt: skip


class HostFault(Exception):
    """Something of this host keeps an attempt from going on. `needed_bytes` is what did not fit, 0
    if not known."""

    def __init__(self, text: str, needed_bytes: int = 0) -> None:
        super().__init__(text, needed_bytes)  # both, so that it passes between processes
        self.needed_bytes = needed_bytes

    def __str__(self) -> str:
        return str(self.args[0])


class StoreUnusable(HostFault):
    """The artifact store cannot be used from this host."""


class InputUnreadable(StoreUnusable):
    """An input cannot be read from the store, so the step has not begun."""


@contextlib.contextmanager
def store_faults(
    doing: str, path: Path, needed_bytes: int = 0, kind: type[StoreUnusable] = StoreUnusable
) -> Iterator[None]:
    """Raise `kind` for an OSError of the block; `doing` is a verb, such as "write to"."""
    try:
        yield
    except OSError as error:
        if error.errno in _OF_THE_CALLER:
            raise
        why = error.strerror or str(error)
        raise kind(
            f"host {socket.gethostname()} cannot {doing} the artifact store {path}: {why}",
            needed_bytes,
        ) from error


def free_bytes(folder: Path) -> int:
    """Return how much this user may still write to the file system of a folder."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize
