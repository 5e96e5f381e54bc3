"""Outputs of steps as the ledger keeps them: small JSON in line, all else as a reference to an
artifact.

The text is JSON in the form of `definition.wire`, or `{"$artifact": {...}}`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.artifacts.reference import Artifact, artifact_of
from orchestrator.artifacts.values import ArtifactStore
from orchestrator.definition.pipeline import OutputRef
from orchestrator.definition.secrets import MASKED_CHARS, refer_to_secrets
from orchestrator.definition.wire import NotWireable, from_wire, to_wire


def encode_output(
    value: Any,
    inline_bytes: int,
    save: Callable[[Any], Artifact],
    secrets: Mapping[str, str] | None = None,
) -> str:
    """Return the text for the ledger; "" for None. Saves what is not JSON, or more than
    `inline_bytes` of it.

    The text holds references in place of `secrets` (by param), since people are shown it.
    """
    if value is None:
        return ""
    if _may_fit(value, inline_bytes):
        try:
            text = _json_text(to_wire(value), secrets or {})
        except (NotWireable, RecursionError, ValueError):  # ValueError: an int of too many digits
            pass
        else:
            if text is not None and len(text.encode()) <= inline_bytes:
                return text
    return json.dumps({"$artifact": save(value).as_json()}, separators=(",", ":"))


def _json_text(wire: Any, secrets: Mapping[str, str]) -> str | None:
    """Return the wire form as text without the secrets; None where a form holds one that cannot be
    taken out of it."""
    text = json.dumps(wire, separators=(",", ":"), allow_nan=False)
    hidden = {name: secret for name, secret in secrets.items() if len(secret) >= MASKED_CHARS}
    if not any(json.dumps(secret)[1:-1] in text for secret in hidden.values()):
        return text
    text = json.dumps(refer_to_secrets(wire, hidden), separators=(",", ":"), allow_nan=False)
    return None if any(json.dumps(secret)[1:-1] in text for secret in hidden.values()) else text


def _may_fit(value: Any, limit: int) -> bool:
    """Whether the JSON of a value may be that short; looks at no more items than that, and makes no
    copy of any."""
    ahead, least = [value], 0
    while ahead and least <= limit:
        item = ahead.pop()
        least += 1 + (len(item) if isinstance(item, str | bytes | bytearray) else 0)
        if isinstance(item, list | tuple | dict):
            if least + len(item) > limit:
                return False
            ahead += item
            if isinstance(item, dict):
                ahead += item.values()
    return least <= limit


def decode_output(
    text: str,
    store: ArtifactStore,
    param: Callable[[str, tuple[str | int, ...]], Any] | None = None,
) -> Any:
    """Return the value, from the store if it is kept there; `param` looks secrets up. Raises
    ArtifactMissing."""
    if not text:
        return None
    wire = json.loads(text)
    artifact = artifact_of(wire)
    return store.load(artifact) if artifact else from_wire(wire, OutputRef, param)
