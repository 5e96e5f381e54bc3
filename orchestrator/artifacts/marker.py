"""The marker of an artifact store: a file with an id, by which two hosts see whether they share the
same folder."""

from __future__ import annotations

import json
import os
import secrets
import socket
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from orchestrator.permissions import PRIVATE, Permissions

MARKER = ".orchestrator-store.json"


def read_marker(root: Path) -> str | None:
    """Return the id of the store in a folder, None if it has no marker. Raises OSError where it
    cannot be read."""
    try:
        text = (root / MARKER).read_text()
    except FileNotFoundError:
        return None
    with suppress(ValueError, TypeError, KeyError):
        return str(json.loads(text)["id"])
    raise OSError(f"its marker {MARKER} is damaged")


def write_marker(
    root: Path, store_id: str | None = None, permissions: Permissions = PRIVATE
) -> str:
    """Return the id of the store in a folder, marked now if it was not. Raises OSError.

    The marker is there whole or not at all, and of many who write it at once one is the first.
    """
    permissions.make_folder(root)
    if known := read_marker(root):
        return known
    card = {
        "id": store_id or secrets.token_hex(8),
        "marked_at": datetime.now(UTC).isoformat(),
        "by": socket.gethostname(),
    }
    draft = root / f"{MARKER}.{secrets.token_hex(4)}"
    try:
        with permissions.open_new(draft) as file:
            file.write(json.dumps(card).encode())
            file.flush()
            os.fsync(file.fileno())
        try:
            # Unlike a rename it does not replace what somebody else has written meanwhile.
            os.link(draft, root / MARKER)
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            if not (root / MARKER).exists():
                draft.rename(root / MARKER)
    finally:
        with suppress(OSError):
            draft.unlink()
    known = read_marker(root)
    if known is None:
        raise OSError(f"its marker {MARKER} is not there right after it was written")
    return known
