"""The fourth stage: what the step returned, in the form in which the ledger keeps it."""

from __future__ import annotations

from typing import Any

from orchestrator.artifacts.faults import HostFault
from orchestrator.artifacts.outputs import encode_output
from orchestrator.artifacts.reference import Artifact
from orchestrator.errors import OutputNotStored
from orchestrator.wording import punctuated
from orchestrator.worker.child.begun import Begun


def save_output(begun: Begun) -> None:
    """Encode the value; a large one is stored as an artifact. Raise OutputNotStored for a value
    that cannot be stored."""
    limit = begun.process.settings.inline_output_bytes
    begun.output = encode_output(
        begun.value, limit, lambda value: _stored(begun, value), begun.claim.secrets
    )


def _stored(begun: Begun, value: Any) -> Artifact:
    try:
        return begun.process.store.save(begun.here.id, begun.claim.token, value)
    except (HostFault, OSError):
        raise  # the store's trouble, not the value's
    except Exception as error:
        raise OutputNotStored(
            f"the output, a {type(value).__qualname__}, cannot be stored: {punctuated(error)} Give"
            " back plain data."
        ) from error
