"""Values as plain JSON, for people, for commands and for readers of JSON."""

from __future__ import annotations

import json
from typing import Any

from orchestrator.artifacts.reference import artifact_of
from orchestrator.definition.secrets import HIDDEN
from orchestrator.definition.wire import NotWireable, to_wire
from orchestrator.definition.wire_scalars import KEYS, shown_scalar


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
