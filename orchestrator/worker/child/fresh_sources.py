"""Importing the user's modules as their files are now: bytecode is believed only where it cannot be
out of date.

Python compares bytecode with its source by size and whole seconds. A file that was changed twice
within a second, and kept its size, would run as it was at first; a step would run other code than
the digests in its record say. A file that is being copied is waited for (`half_copied.py`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    SourceFileLoader,
    SourcelessFileLoader,
)
from importlib.util import cache_from_source
from typing import Any

from orchestrator.worker.child.half_copied import HalfCopied

SAFE_AGE_S = 2.0


class _FreshLoader(SourceFileLoader):
    half_copied: HalfCopied

    def get_code(self, fullname: str) -> Any:
        self.half_copied.wait_for(self.path)
        return super().get_code(fullname)

    def path_stats(self, path: str) -> Any:
        """Raise OSError, which lets Python compile the source and keep no bytecode, unless the
        bytecode can be trusted: it was written when the source was so old that any later change
        shows in its time."""
        stats = super().path_stats(path)
        if os.stat(cache_from_source(path)).st_mtime < stats["mtime"] + SAFE_AGE_S:
            raise OSError("the bytecode may be of an earlier state of the file")
        return stats


class _FreshFinder(FileFinder):
    half_copied: HalfCopied

    def find_spec(self, fullname: str, target: Any = None) -> Any:
        spec = super().find_spec(fullname, target)
        # a folder may be there before its __init__.py
        is_there = spec is not None and spec.loader is not None
        if not is_there and self.half_copied.wait_for_module(
            self.path, fullname.rpartition(".")[2]
        ):
            self.invalidate_caches()
            spec = super().find_spec(fullname, target)
        return spec


class FreshSources:
    """A path hook for one folder at a time and all below it."""

    def __init__(self, half_copied: HalfCopied) -> None:
        self._loader = type("FreshLoader", (_FreshLoader,), {"half_copied": half_copied})
        self._make_finder: Callable[..., FileFinder] = type(
            "FreshFinder", (_FreshFinder,), {"half_copied": half_copied}
        )
        self._folder = ""
        sys.path_hooks.insert(0, self._finder)

    def turn_to(self, folder: str) -> None:
        for known in (self._folder, folder):
            for path in [
                path for path in sys.path_importer_cache if known and _is_inside(path, known)
            ]:
                del sys.path_importer_cache[path]
        self._folder = folder

    def _finder(self, path: str) -> FileFinder:
        if not self._folder or not _is_inside(path, self._folder):
            raise ImportError("not a folder of the user's")
        return self._make_finder(
            path, (ExtensionFileLoader, EXTENSION_SUFFIXES), (self._loader, SOURCE_SUFFIXES),
            (SourcelessFileLoader, BYTECODE_SUFFIXES),
        )  # fmt: skip


def _is_inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
