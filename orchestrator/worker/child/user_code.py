"""The user's modules in a worker process: those of the run's own folder, and as their files are
now.

A worker lives long and serves many runs. Two folders may hold modules of the same name (`train.py`,
`pipeline.py`), and files change between runs; Python alone would go on with whatever this process
happened to import first.
"""

from __future__ import annotations

import contextlib
import importlib
import linecache
import os
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.definition.callables import resolve_function
from orchestrator.definition.code import code_id, file_digest
from orchestrator.definition.folders import put_on_path
from orchestrator.worker.celery_inside.user_apps import forget_shared_tasks
from orchestrator.worker.child.fresh_sources import FreshSources
from orchestrator.worker.child.half_copied import HalfCopied
from orchestrator.worker.child.process_state import adopt_imports, drop_imports

_OWN = frozenset({"orchestrator", "__main__"})
_INSTALLED = tuple(
    {
        form(sysconfig.get_path(name)) + os.sep
        for name in ("stdlib", "purelib", "platlib")
        for form in (os.path.abspath, os.path.realpath)
    }
)


@dataclass(frozen=True, slots=True)
class LoadedCode:
    """Files with their SHA-256, by path relative to the folder, and an id of them."""

    files: Mapping[str, str]
    id: str


class UserCode:
    """One folder's modules at a time. Attempts in threads share it: those of two folders are kept
    apart in prefork."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._folder = ""
        self._stamps: dict[
            str, tuple[int, int]
        ] = {}  # source file -> its time and size when it was imported
        self._modules_seen = 0
        self._functions: dict[str, Callable[..., Any]] = {}
        self.half_copied = HalfCopied()
        self._sources = FreshSources(self.half_copied)
        self._digests: dict[str, str] = {}
        self._brought: dict[
            str, set[str]
        ] = {}  # module of a step -> files that were loaded for it or while it ran
        self._loaded: dict[tuple[str, str], LoadedCode] = {}

    def loaded(
        self, module: str, submitted: Mapping[str, str] | None, submitted_id: str
    ) -> LoadedCode:
        """Return the folder's files that are loaded, as far as they belong to the run of a step of
        this module.

        Those are the submitted ones, and what was imported for the module. The others belong to
        runs that this process has had before. If it is not known what was submitted (None), all are
        returned.
        """
        with self._lock:
            self._look("")
            found = self._loaded.get((module, submitted_id))
            if found is None:
                own = (
                    self._digests.keys()
                    if submitted is None
                    else {*submitted, *self._brought.get(module, ())}
                )
                files = {file: digest for file, digest in self._digests.items() if file in own}
                found = self._loaded[module, submitted_id] = LoadedCode(files, code_id(files))
            return found

    def forget(self) -> None:
        """Let the folder's modules be imported anew."""
        with self._lock:
            self._forget()

    @contextlib.contextmanager
    def of(self, import_path: str, module: str = "") -> Iterator[None]:
        """Let imports find the modules of a folder, unless this machine has no such folder; "" for
        no folder.

        What is imported meanwhile is for a step of this module.
        """
        with self._lock:
            if import_path != self._folder:
                if not os.path.isdir(import_path):
                    import_path = ""
                if import_path != self._folder:
                    self._turn_to(import_path)
            elif self._has_changed():
                self._forget()
        try:
            yield
        finally:
            with self._lock:
                self._look(module)

    def function(self, uses: str) -> Callable[..., Any]:
        """Return the function that "module:function" names. Raises FunctionNotFound."""
        with self._lock:
            function = self._functions.get(uses)
            if function is None:
                function = self._functions[uses] = resolve_function(uses)
                self._look(uses.partition(":")[0])
                adopt_imports()
        return function

    def _turn_to(self, folder: str) -> None:
        self._forget()
        if self._folder in sys.path and self._folder:
            # the first of them is the one that we put there
            sys.path.remove(self._folder)
        self._folder = folder
        self._sources.turn_to(folder)
        if folder:
            put_on_path(folder)
        self._forget()  # what came from there by another way, before we watched it
        adopt_imports(are_of_user=False)

    def _forget(self) -> None:
        """Drop the folder's modules, so that they are imported anew."""
        drop_imports()
        gone = [name for name, _ in self._modules()] + list(self._namespaces())
        for name in gone:
            del sys.modules[name]
        forget_shared_tasks(gone)
        self._stamps.clear()
        for known in (self._digests, self._brought, self._loaded):
            known.clear()
        self._functions.clear()
        self._modules_seen = 0
        importlib.invalidate_caches()
        linecache.checkcache()

    def _look(self, module: str) -> None:
        """Remember the files of modules that are new, as they are now, and for a step of which
        module they are."""
        if len(sys.modules) == self._modules_seen:
            return
        self._modules_seen = len(sys.modules)
        for _, file in self._modules():
            if file not in self._stamps:
                self._stamps[file] = _stamp(file)
                if digest := file_digest(file):
                    name = file[len(self._folder.rstrip(os.sep)) + 1 :]
                    self._digests[name] = digest
                    self._brought.setdefault(module, set()).add(name)
                    self._loaded.clear()

    def _has_changed(self) -> bool:
        return any(_stamp(file) != stamp for file, stamp in self._stamps.items())

    def _modules(self) -> Iterator[tuple[str, str]]:
        """Return name and source file of the folder's modules. Compiled ones cannot be imported
        twice: they stay."""
        if not self._folder:
            return
        inside = self._folder.rstrip(os.sep) + os.sep
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__dict__", {}).get("__file__")
            if (
                isinstance(file, str)
                and file.startswith(inside)
                and file.endswith(".py")
                and not file.startswith(_INSTALLED)
                and name.partition(".")[0] not in _OWN
            ):
                yield name, file

    def _namespaces(self) -> Iterator[str]:
        """Yield the names of the folder's packages that have no file: without `__init__.py`."""
        inside = self._folder.rstrip(os.sep) + os.sep
        for name, module in list(sys.modules.items()):
            spec = getattr(module, "__dict__", {}).get("__spec__")
            if not self._folder or spec is None or spec.origin is not None:
                continue
            places = map(str, spec.submodule_search_locations or ())
            if any(
                place.startswith(inside) and not place.startswith(_INSTALLED) for place in places
            ):
                yield name


def _stamp(file: str) -> tuple[int, int]:
    try:
        status = os.stat(file)
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_size
