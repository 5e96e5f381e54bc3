"""Whether this machine has the artifact store of the installation."""

from __future__ import annotations

from contextlib import suppress

from orchestrator.artifacts.marker import read_marker
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.store_id import recorded_store
from orchestrator.settings.model import Settings


def has_store(ledger: Ledger, settings: Settings, *, is_embedded: bool = False) -> bool:
    """Return whether the artifact folder of these settings is the store that the workers use, as it
    is with the embedded server."""
    if is_embedded or settings.redis_url is None:
        return True
    store = recorded_store(ledger.client, ledger.prefix)
    with suppress(OSError):  # a folder that cannot be read is not the store
        return bool(store) and read_marker(settings.artifact_root) == store["id"]
    return False
