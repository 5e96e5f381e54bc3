"""Where the user's folders stand among all that can be imported: behind the standard library,
before what is installed.

A file of the user's is never taken for a module of Python's, whoever imports it and when; their own
modules win over installed ones of the same name, as in a script. What the orchestrator and its
dependencies import is loaded before such a folder is put there. The order on `sys.path` is for
processes that steps spawn, which are given the path alone.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_folders: set[str] = set()


def _is_standard(path: str) -> bool:
    folders = {os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")}
    folders |= {os.path.join(folder, "lib-dynload") for folder in folders}
    archive = f"python{sys.version_info.major}{sys.version_info.minor}.zip"
    return os.path.realpath(path or os.curdir) in folders or os.path.basename(path) == archive


class _StandardLibrary:
    """Finds modules of the standard library there alone, whatever has come first on `sys.path`.

    Celery's Django fix-up puts the working folder first, for one, as soon as a step makes a Celery
    app.
    """

    def __init__(self, folders: Sequence[str]) -> None:
        self._folders = folders

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if path is not None or name not in sys.stdlib_module_names:
            return None
        spec = PathFinder.find_spec(name, self._folders)
        if spec is None:  # of another system, such as winreg: here there is none
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return spec


def put_on_path(folder: str) -> None:
    """Put a folder on `sys.path`, before other folders of the user's."""
    places = [place for place, path in enumerate(sys.path) if _is_standard(path)]
    if places and not any(isinstance(finder, _StandardLibrary) for finder in sys.meta_path):
        finder = _StandardLibrary([sys.path[place] for place in places])
        sys.meta_path.insert(sys.meta_path.index(PathFinder), finder)
    sys.path.insert(max(places, default=-1) + 1, folder)
    _folders.add(folder)


@contextmanager
def users_folders_aside() -> Iterator[None]:
    """Take the user's folders off `sys.path` for an import of ours that comes late. Not for threads
    at work."""
    before = sys.path[:]
    sys.path[:] = [path for path in before if path not in _folders]
    try:
        yield
    finally:
        sys.path[:] = before
