"""Outputs of steps as the ledger keeps them: small JSON in line, all else as a reference to an
artifact.

The text is JSON in the form of `definition.wire`, or `{"$artifact": {...}}`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.artifacts.store import Artifact, ArtifactStore
from orchestrator.definition.model import OutputRef
from orchestrator.definition.secrets import HIDDEN, MASKED_CHARS, refer_to_secrets
from orchestrator.definition.wire import NotWireable, from_wire, to_wire
from orchestrator.definition.wire_scalars import KEYS, shown_scalar


def encode_output(
    value: Any,
    inline_bytes: int,
    save: Callable[[Any], Artifact],
    secrets: Mapping[str, str] | None = None,
) -> str:
    """Return the text for the ledger; "" for None. Saves what is no JSON, or more than
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


def artifact_of(wire: Any) -> Artifact | None:
    """Return the artifact that an output's JSON refers to, None for an inline value."""
    if isinstance(wire, dict) and wire.keys() == {"$artifact"}:
        return Artifact(**wire["$artifact"])
    return None


def shown_output(text: str) -> Any:
    """Return an output for people and JSON readers: plain JSON (a tuple is a list), or the
    artifact's card."""
    if not text:
        return None
    wire = json.loads(text)
    artifact = artifact_of(wire)
    return {"artifact": artifact.shown()} if artifact else plain_json(wire)


def plain_json(wire: Any) -> Any:
    """Return the wire form for people and JSON readers: a tuple is a list, the keys of a mapping
    are text."""
    if isinstance(wire, list):
        return [plain_json(item) for item in wire]
    if isinstance(wire, dict):
        if len(wire) == 1:
            (key, body), *_ = wire.items()
            if key in ("$tuple", "$float"):
                return plain_json(body)
            if key in ("$dict", "$mapping"):
                pairs = body if key == "$dict" else body[1]
                return {_shown_key(name): plain_json(item) for name, item in pairs}
            if key in KEYS:
                return shown_scalar(key, body)
            if key == "$text":
                return "".join(part if isinstance(part, str) else HIDDEN for part in body)
            if key == "$value":
                _, parts, *first = body
                return plain_json(parts[first[0]] if first else parts)
        return {key: plain_json(item) for key, item in wire.items()}
    return wire


def _shown_key(wire: Any) -> str:
    shown = plain_json(wire)
    return str(tuple(shown)) if isinstance(wire, dict) and "$tuple" in wire else str(shown)


def plain_value(value: Any) -> Any:
    """Return a value as JSON can say it, at any depth, or as its text where it has no such form.

    A value is the same for commands whether it is an output or a param: a Path or a date is text, a
    set is a list.
    """
    if value is None or type(value) in (int, float, bool):
        return value
    if isinstance(value, dict):
        return {_plain_key(key): plain_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(item) for item in value]
    if isinstance(value, bytes | bytearray):
        return bytes(value).decode(errors="backslashreplace")
    if type(value).__module__ == "numpy" and type(value).__name__ == "ndarray":
        # its text would leave out the middle
        return plain_value(
            value.astype(str).tolist() if value.dtype.kind in "mM" else value.tolist()
        )
    try:
        return plain_json(to_wire(value, typed=True))
    except NotWireable:
        return str(value)


def _plain_key(key: Any) -> str:
    try:
        return _shown_key(to_wire(key))
    except NotWireable:
        return str(key)
