"""One temporary folder for a worker and what its steps start, which is gone when the worker is.

`multiprocessing` makes a folder `pymp-*` in each process that needs one (for the shared memory of
the pool, sockets of managers) and removes it when that process ends in peace, which a worker's
child never does. So all of them get this one. It bears the worker's process id, so that whoever
ends a worker knows it: its guardian, or its parent. Where all of them were killed at once,
the next worker of the same user removes it: the lock in it is free then.
"""

from __future__ import annotations

import fcntl
import glob
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress

PREFIX = "orchestrator-worker-{pid}-"
LOCK = "lock"
NEW_S = 60.0


def make_temporary_folder() -> str:
    """Make the folder of this worker, use it here, and return it; remove those of workers that are
    gone."""
    for left in _folders("*"):
        if _is_left(left):
            remove_temporary_folder(left)
    folder = tempfile.mkdtemp(prefix=PREFIX.format(pid=os.getpid()))
    lock = os.open(os.path.join(folder, LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_SH)  # until this process is gone with all that it has forked
    use_temporary_folder(folder)
    return folder


def use_temporary_folder(folder: str) -> None:
    """Let multiprocessing use the folder in this process, and in all that it starts; in each of
    billiard's anew."""
    multiprocessing.current_process()._config["tempdir"] = folder  # type: ignore[attr-defined]


def temporary_folder() -> str:
    """Return the folder of the worker that this process belongs to; the system's where there is
    none."""
    folder: str | None = multiprocessing.current_process()._config.get("tempdir")  # type: ignore[attr-defined]
    return folder or tempfile.gettempdir()


def remove_temporary_folder(folder: str) -> None:
    """Remove it with all that is in it; nothing if it is gone."""
    shutil.rmtree(folder, ignore_errors=True)


def remove_folders_of(pid: int) -> None:
    """Remove what a worker of this user that has ended has left in the folder for temporary
    files."""
    for folder in _folders(pid):
        remove_temporary_folder(folder)


def _folders(pid: int | str) -> Iterator[str]:
    """Return this user's folders of the workers of that process id, "*" for all."""
    for folder in glob.glob(
        os.path.join(glob.escape(tempfile.gettempdir()), PREFIX.format(pid=pid) + "*")
    ):
        with suppress(OSError):  # it is just being removed
            if os.lstat(folder).st_uid == os.geteuid():
                yield folder


def _is_left(folder: str) -> bool:
    """Whether nobody holds the lock of a folder any more; false for one that is so new that nobody
    may hold it yet."""
    try:
        lock = os.open(os.path.join(folder, LOCK), os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return time.time() - os.fstat(lock).st_mtime > NEW_S
    except OSError:
        return False
    finally:
        os.close(lock)
