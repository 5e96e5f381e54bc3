"""Which code a run was submitted with, so that a resume can tell what was changed since."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from orchestrator.definition.model import FunctionCall, Pipeline


def code_of(pipeline: Pipeline) -> dict[str, str]:
    """Give the source files of the pipeline's own functions, relative to its import path, with their SHA-256.

    Only what lies in the import path counts: what is installed is told apart by its version. Modules that those import
    in turn count if they have been imported here, as they have when the pipeline was loaded.
    """
    if not pipeline.import_path:
        return {}
    folders = {form(pipeline.import_path).rstrip(os.sep) + os.sep for form in (os.path.abspath, os.path.realpath)}
    found = {}
    for file in _source_files(pipeline):
        for folder in folders:
            if file.startswith(folder) and f"{os.sep}site-packages{os.sep}" not in file:
                try:
                    status = os.stat(file)
                except OSError:
                    continue
                found[file.removeprefix(folder)] = _sha256(file, status.st_mtime_ns, status.st_size)
    return dict(sorted(found.items()))


def _source_files(pipeline: Pipeline) -> Iterator[str]:
    calls = (step.call for step in pipeline.steps.values())
    for module in {call.uses.partition(":")[0] for call in calls if isinstance(call, FunctionCall)}:
        if module not in sys.modules:
            try:
                spec = importlib.util.find_spec(module)
            except (ImportError, ValueError, AttributeError):
                continue
            if spec and spec.origin and spec.origin.endswith(".py"):
                yield os.path.abspath(spec.origin)
    for loaded in list(sys.modules.values()):
        file = getattr(loaded, "__file__", None)
        if isinstance(file, str) and file.endswith(".py"):
            yield file


@cache
def _sha256(file: str, mtime_ns: int, size_bytes: int) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()
