"""Which code a run was submitted with, so that a resume can tell what was changed since."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path

from orchestrator.definition.model import FunctionCall, Pipeline


def code_of(pipeline: Pipeline) -> dict[str, str]:
    """Give the source files of the pipeline's own functions, relative to its import path, with their SHA-256.

    Only what lies in the import path counts: what is installed is told apart by its version. Modules that those import
    in turn count if they have been imported here, as they have when the pipeline was loaded.
    """
    if not pipeline.import_path:
        return {}
    root = Path(pipeline.import_path).resolve()
    names = {
        step.call.uses.partition(":")[0] for step in pipeline.steps.values() if isinstance(step.call, FunctionCall)
    }
    files = {file for name in names if (file := _source(name))}
    files |= {Path(loaded) for module in list(sys.modules.values()) if (loaded := _own_file(module))}
    found = {}
    for file in sorted(files):
        resolved = file.resolve()
        if resolved.is_relative_to(root) and "site-packages" not in resolved.parts and resolved.is_file():
            found[str(resolved.relative_to(root))] = hashlib.sha256(resolved.read_bytes()).hexdigest()
    return found


def _source(module: str) -> Path | None:
    loaded = sys.modules.get(module)
    if loaded is not None:
        file = _own_file(loaded)
        return Path(file) if file else None
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError):
        return None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


def _own_file(module: object) -> str | None:
    file = getattr(module, "__file__", None)
    return file if isinstance(file, str) and file.endswith(".py") else None
