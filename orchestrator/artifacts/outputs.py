"""Outputs of steps as the ledger keeps them: small JSON in line, all else as a reference to an artifact.

The text is JSON in the form of `definition.wire`, or `{"$artifact": {...}}`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from orchestrator.artifacts.store import Artifact, ArtifactStore
from orchestrator.definition.wire import NotWireable, from_wire, to_wire

_PROBE_ITEMS = 10_000  # a container with more items than this is never looked through for JSON


def encode_output(value: Any, inline_bytes: int, save: Callable[[Any], Artifact]) -> str:
    """Give the text for the ledger; "" for None. Saves what is no JSON, or more than `inline_bytes` of it."""
    if value is None:
        return ""
    if not (isinstance(value, list | tuple | dict) and len(value) > _PROBE_ITEMS):
        try:
            text = json.dumps(to_wire(value), separators=(",", ":"), allow_nan=False)
        except (NotWireable, RecursionError, ValueError):  # ValueError: an int of too many digits
            pass
        else:
            if len(text.encode()) <= inline_bytes:
                return text
    return json.dumps({"$artifact": save(value).as_json()}, separators=(",", ":"))


def decode_output(text: str, store: ArtifactStore) -> Any:
    """Give the value back, from the store if it is kept there. Raises ArtifactMissing."""
    if not text:
        return None
    wire = json.loads(text)
    artifact = artifact_of(wire)
    return store.load(artifact) if artifact else from_wire(wire)


def artifact_of(wire: Any) -> Artifact | None:
    """Give the artifact that an output's JSON refers to, None for an inline value."""
    if isinstance(wire, dict) and wire.keys() == {"$artifact"}:
        return Artifact(**wire["$artifact"])
    return None


def shown_output(text: str) -> Any:
    """Give an output for people and JSON readers: plain JSON (a tuple is a list), or the artifact's card."""
    if not text:
        return None
    wire = json.loads(text)
    artifact = artifact_of(wire)
    return {"artifact": artifact.as_json()} if artifact else plain_json(wire)


def plain_json(wire: Any) -> Any:
    """Give the wire form for people and JSON readers: a tuple is a list, the keys of a mapping are text."""
    if isinstance(wire, list):
        return [plain_json(item) for item in wire]
    if isinstance(wire, dict):
        if wire.keys() == {"$tuple"}:
            return plain_json(wire["$tuple"])
        if wire.keys() == {"$dict"}:
            return {str(from_wire(key)): plain_json(item) for key, item in wire["$dict"]}
        if wire.keys() == {"$float"}:
            return wire["$float"]
        if wire.keys() == {"$value"}:
            _, parts, *first = wire["$value"]
            return plain_json(parts[first[0]] if first else parts)
        return {key: plain_json(item) for key, item in wire.items()}
    return wire
