"""One temporary folder for a worker and what its steps start, which is gone when the worker is.

`multiprocessing` makes a folder `pymp-*` in each process that needs one (for the shared memory of the pool, sockets of
managers) and removes it when that process ends in peace, which a worker's child never does. So all of them get this
one. It bears the worker's process id, so that whoever ends a worker knows it: its guardian, or who has started it.
"""

from __future__ import annotations

import glob
import multiprocessing
import os
import shutil
import tempfile

PREFIX = "orchestrator-worker-{pid}-"


def make_temporary_folder() -> str:
    """Make the folder of this worker, use it here, and return it."""
    folder = tempfile.mkdtemp(prefix=PREFIX.format(pid=os.getpid()))
    use_temporary_folder(folder)
    return folder


def use_temporary_folder(folder: str) -> None:
    """Let multiprocessing use the folder in this process, and in all that it starts; in each of billiard's anew."""
    multiprocessing.current_process()._config["tempdir"] = folder  # type: ignore[attr-defined]


def temporary_folder() -> str:
    """Return the folder of the worker that this process belongs to; the system's where there is none."""
    folder: str | None = multiprocessing.current_process()._config.get("tempdir")  # type: ignore[attr-defined]
    return folder or tempfile.gettempdir()


def remove_temporary_folder(folder: str) -> None:
    """Remove it with all that is in it; nothing if it is gone."""
    shutil.rmtree(folder, ignore_errors=True)


def remove_folders_of(pid: int) -> None:
    """Remove what a worker of this user that has ended has left in the folder for temporary files."""
    for folder in glob.glob(os.path.join(glob.escape(tempfile.gettempdir()), PREFIX.format(pid=pid) + "*")):
        if os.lstat(folder).st_uid == os.geteuid():
            remove_temporary_folder(folder)
