"""What attempts were given, as JSON and as words: small values in line, large ones and outputs by
their digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from orchestrator.artifacts.plain import plain_json
from orchestrator.artifacts.reference import artifact_of
from orchestrator.definition.pipeline import OutputRef, ParamRef, Template
from orchestrator.definition.references import written
from orchestrator.definition.typed import Unkept
from orchestrator.definition.wire import from_wire, references, to_wire
from orchestrator.record.received import Received, Source
from orchestrator.wording import listed

INLINE_CHARS = 1_000  # of an argument's JSON; what is larger is named by its digest
SHORT_CHARS = 60
NAMED = 3  # arguments that a line names


def arguments_json(received: Received) -> dict[str, Any]:
    """Return what an attempt was given: `uses`, `args` and `with` of a function; `run` and the
    `values` of its references of a shell command. An output is {"output": {step, attempt, sha256,
    …}}, a large value {"large": {…}}.
    """
    if received.command is None:
        words = {
            "uses": received.spec.uses,
            "args": [_shown(value, received) for value in received.args],
            "with": {name: _shown(value, received) for name, value in received.kwargs.items()},
        }
    else:
        read = dict.fromkeys(references(received.command))
        values = {
            reference: received.value_of(reference)
            if isinstance(reference, ParamRef)
            else reference
            for reference in read
        }
        words = {
            "run": _command_text(received.command),
            "values": {written(it): _shown(value, received) for it, value in values.items()},
        }
    return {name: value for name, value in words.items() if value}


def params_json(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return params, given in the wire form, as plain JSON; large ones by their digest."""
    return {name: _value_json(wire) for name, wire in params.items()}


def differences_json(differences: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
    """Return by argument what it was and what it would be now."""
    return {
        name: {"was": _value_json(was), "now": _value_json(now)}
        for name, (was, now) in differences.items()
    }


def differences_text(differences: Mapping[str, tuple[Any, Any]]) -> str:
    """Say in which arguments a step that is kept differs from what it would be given now; "" if in
    none."""
    text = [
        f"{name} was {_short(was)}, now {_short(now)}" for name, (was, now) in differences.items()
    ]
    return f"ran with other arguments: {listed(text, NAMED, separator='; ')}" if text else ""


def _shown(value: Any, received: Received) -> Any:
    if isinstance(value, OutputRef):
        return {"output": _source_json(value, received.sources[value.step])}
    if isinstance(value, Template):
        return {"text": [_shown(part, received) for part in value.parts]}
    if any(references(value)):
        if isinstance(value, dict):
            return {str(key): _shown(item, received) for key, item in value.items()}
        return [_shown(item, received) for item in value]
    return _value_json(to_wire(value, typed=True))


def _value_json(wire: Any) -> Any:
    text = json.dumps(wire, separators=(",", ":"))
    if len(text) <= INLINE_CHARS:
        return plain_json(wire)
    return {"large": {"type": _type_name(wire), **_digest(text)}}


def _source_json(reference: OutputRef, source: Source) -> dict[str, Any]:
    wire = json.loads(source.text) if source.text else None
    artifact = artifact_of(wire)
    return {
        "step": source.step,
        "attempt": source.attempt,
        **({"path": list(reference.path)} if reference.path else {}),
        **(
            {"type": artifact.kind, "size_bytes": artifact.size_bytes, "sha256": artifact.sha256}
            if artifact
            else {"type": _type_name(wire), **_digest(source.text or "null")}
        ),
    }


def _digest(text: str) -> dict[str, Any]:
    data = text.encode()
    return {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _type_name(wire: Any) -> str:
    value = from_wire(wire, is_lenient=True)
    if isinstance(value, Unkept):  # its type is not there, but named
        return str(next(iter(value.wire.values()))[0])
    # a text that holds a secret
    return "str" if isinstance(value, Template) else type(value).__name__


def _command_text(command: Any) -> str:
    parts = command.parts if isinstance(command, Template) else (command,)
    return "".join(part if isinstance(part, str) else _braced(part) for part in parts)


def _short(wire: Any) -> str:
    value = from_wire(wire, is_lenient=True)
    text = (
        f"${{{{ {written(value)} }}}}"
        if isinstance(value, OutputRef | ParamRef)
        else json.dumps(plain_json(wire))
    )
    return text if len(text) <= SHORT_CHARS else f"{text[:SHORT_CHARS]}…"


def _braced(reference: OutputRef | ParamRef) -> str:
    shown = written(reference)
    return f"${{{{ file({shown}) }}}}" if reference.as_file else f"${{{{ {shown} }}}}"
