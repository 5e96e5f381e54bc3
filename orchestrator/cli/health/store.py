"""Checks of the artifact store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict

from orchestrator.artifacts.faults import StoreUnusable
from orchestrator.artifacts.identity import StoreId, marked_store, refuse_another
from orchestrator.artifacts.store import FolderStore
from orchestrator.cli.health.finding import Finding
from orchestrator.errors import StoreRefused
from orchestrator.installation import Installation
from orchestrator.ledger.store_id import record_store, recorded_store
from orchestrator.settings.model import Settings
from orchestrator.wording import punctuated


def check_artifact_folder(settings: Settings) -> Iterator[Finding]:
    """Write and read in the folder, as a worker does; where there is none yet, see whether one
    could be made."""
    root = settings.artifact_root
    existing = next(folder for folder in (root, *root.parents) if folder.exists())
    if existing != root and existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        yield Finding("ok", "artifacts", f"{root}, which is not there yet")
        return
    try:
        if existing != root:
            raise StoreUnusable(f"{root} cannot be written")
        FolderStore(root, permissions=settings.artifact_permissions).check()
        yield Finding("ok", "artifacts", str(root))
    except StoreUnusable as error:
        yield Finding(
            "fault",
            "artifacts",
            f"{punctuated(error)} Make it writable, or set ORCHESTRATOR_ARTIFACT_DIR.",
        )


def check_store(installation: Installation) -> Iterator[Finding]:
    """Compare the folder with the store that the installation's workers use. Embedded: it has
    nobody to share with."""
    fields = recorded_store(installation.ledger.client, installation.ledger.prefix)
    if installation.is_embedded:
        return
    if not fields:
        yield Finding(
            "ok",
            "store",
            "no worker has used one yet; the first that starts decides which folder it is",
        )
        return
    try:
        refuse_another(StoreId(**fields), installation.settings.artifact_root)
        yield Finding("ok", "store", f"{fields['id']}, the same as the workers'")
    except StoreRefused as error:
        yield Finding("fault", "store", str(error))


def accept_store(installation: Installation) -> str:
    """Let this host's folder be the installation's store from now on, and return its id. Raises
    StoreRefused."""
    store = marked_store(
        installation.settings.artifact_root, installation.settings.artifact_permissions
    )
    record_store(
        installation.ledger.client, installation.ledger.prefix, asdict(store), replaces=True
    )
    return store.id
