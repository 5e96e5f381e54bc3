"""Checks of the artifact store."""

from __future__ import annotations

import os
from collections.abc import Iterator

from orchestrator.cli.health.finding import Finding
from orchestrator.settings import Settings


def check_artifact_folder(chosen: Settings) -> Iterator[Finding]:
    root = chosen.artifact_root
    existing = next(folder for folder in (root, *root.parents) if folder.exists())
    if os.access(existing, os.W_OK | os.X_OK):
        yield Finding("ok", "artifacts", str(root))
    else:
        yield Finding("fault", "artifacts", f"{root} cannot be written. Set ORCHESTRATOR_ARTIFACT_DIR.")
