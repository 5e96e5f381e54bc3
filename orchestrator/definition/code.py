"""Which code a run was submitted with, so that a resume can say what was changed since."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from orchestrator.definition.pipeline import FunctionCall, Pipeline


def code_of(pipeline: Pipeline) -> dict[str, str]:
    """Return the source files of the pipeline's own functions, relative to its import path, with
    their SHA-256.

    Only files in the import path count: installed packages are distinguished by their version.
    Modules that those import in turn count if they have been imported here, as they have when the
    pipeline was loaded, or if an import statement names them, as one inside a function does, which
    runs only when its step does.
    """
    if not pipeline.import_path:
        return {}
    folders = {
        form(pipeline.import_path).rstrip(os.sep) + os.sep
        for form in (os.path.abspath, os.path.realpath)
    }
    found: dict[str, str] = {}
    files = dict.fromkeys(_source_files(pipeline))
    ahead = list(files)
    while ahead:
        file = ahead.pop()
        for folder in folders:
            if not file.startswith(folder) or f"{os.sep}site-packages{os.sep}" in file:
                continue
            if digest := file_digest(file):
                found[file.removeprefix(folder)] = digest
                more = [
                    imported
                    for imported in _imported_files(file, folder, digest)
                    if imported not in files
                ]
                files.update(dict.fromkeys(more))
                ahead += more
    return dict(sorted(found.items()))


def file_digest(file: str) -> str:
    """Return the SHA-256 of a file, "" if it cannot be read. It is read again only if it has
    changed."""
    try:
        status = os.stat(file)
        return _sha256(file, status.st_mtime_ns, status.st_size, status.st_ino)
    except OSError:
        return ""


def code_id(code: Mapping[str, str]) -> str:
    """Return a short id of files with their digests."""
    return hashlib.sha256(code_text(code).encode()).hexdigest()[:12]


def code_text(code: Mapping[str, str]) -> str:
    """Return digests by file as the ledger keeps them."""
    return json.dumps(code, separators=(",", ":"), sort_keys=True)


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


def _imported_files(file: str, folder: str, digest: str) -> Iterator[str]:
    """Yield the files of the folder that the import statements of a file name, wherever they stand
    in it."""
    for level, module, names in _imports(file, digest):
        base = os.path.dirname(file)
        for _ in range(level - 1):
            base = os.path.dirname(base)
        place = os.path.join(base if level else folder, *module.split(".")) if module else base
        for path in (place, *(os.path.join(place, name) for name in names)):
            for candidate in (f"{path}.py", os.path.join(path, "__init__.py")):
                if candidate.startswith(folder) and os.path.isfile(candidate):
                    yield candidate


@cache
def _imports(file: str, digest: str) -> tuple[tuple[int, str, tuple[str, ...]], ...]:
    """Return (level, module, names) of each import statement; none of a file that cannot be read as
    Python."""
    try:
        tree = ast.parse(Path(file).read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return ()
    found: list[tuple[int, str, tuple[str, ...]]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(0, alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.level, node.module or "", tuple(alias.name for alias in node.names)))
    return tuple(found)


@cache
def _sha256(file: str, mtime_ns: int, size_bytes: int, inode: int) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()
