"""Whether this host's artifact folder is the store of the installation, by its marker."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

from orchestrator.artifacts.faults import StoreUnusable
from orchestrator.artifacts.marker import read_marker, write_marker
from orchestrator.artifacts.store import FolderStore
from orchestrator.errors import StoreRefused
from orchestrator.permissions import PRIVATE, Permissions
from orchestrator.wording import punctuated

ACCEPT = "orchestrator doctor --accept-store"


@dataclass(frozen=True, slots=True)
class StoreId:
    """The id of a store, with the host that used it first and the folder as which it did."""

    id: str
    host: str
    folder: str


def marked_store(root: Path, permissions: Permissions = PRIVATE) -> StoreId:
    """Return the store in a folder that can be used, marked now if it was not. Raises
    StoreRefused."""
    try:
        marked = write_marker(root, permissions=permissions)
        FolderStore(root, is_marked=True, permissions=permissions).check()
    except (OSError, StoreUnusable) as error:
        raise _unusable(root, error) from None
    return StoreId(marked, socket.gethostname(), str(root))


def refuse_another(recorded: StoreId | None, root: Path) -> None:
    """Raise StoreRefused unless the folder is the recorded store; with none recorded any folder may
    become it."""
    if recorded is None:
        return
    try:
        marked = read_marker(root)
    except OSError as error:
        raise _unusable(root, error) from None
    if marked == recorded.id:
        return
    what = "is another store than" if marked else "does not bear the marker of"
    raise StoreRefused(
        f"the artifact folder {root} of host {socket.gethostname()} {what} the one that this"
        f" installation uses (first used by host {recorded.host} as {recorded.folder}). All workers"
        " must see the same folder: mount it, or set ORCHESTRATOR_ARTIFACT_DIR. If this folder has"
        f" taken its place: {ACCEPT}"
    )


def _unusable(root: Path, error: Exception) -> StoreRefused:
    advice = "Make it writable for this user, or set ORCHESTRATOR_ARTIFACT_DIR"
    if isinstance(error, StoreUnusable):
        return StoreRefused(f"{punctuated(error)} {advice}")
    why = getattr(error, "strerror", None) or error
    return StoreRefused(
        f"host {socket.gethostname()} cannot use the artifact folder {root}: {punctuated(why)}"
        f" {advice}"
    )
