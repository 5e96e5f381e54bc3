"""Values as JSON and back, exactly: arguments of calls on their way to a worker, small outputs on their way back.

Plain JSON values stand for themselves. What JSON has no word for is an object with one key that begins with "$":

    {"$tuple": [...]}          a tuple
    {"$dict": [[k, v], ...]}   a mapping whose keys are not all strings, or begin with "$"
    {"$float": "nan"}          nan, inf, -inf
    {"$output": [step, ...]}   OutputRef: step, then the path into its output
    {"$param": [param, ...]}   ParamRef: param, then the path into it
    {"$text": [...]}           Template: its parts
    {"$value": [type, parts]}  a value of another type, see `definition.typed`; with a third item, 0, the first of its
                               parts is what people are shown. In params only
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from orchestrator.definition.model import OutputRef, ParamRef, Template
from orchestrator.definition.typed import Parts, Unkept, as_text, put_together, shown_parts, take_apart

_PLAIN = frozenset({str, int, float, list, tuple, dict, OutputRef, ParamRef, Template})


class NotWireable(TypeError):
    """A value has no exact JSON form. `where` is the way to it, such as "['model']"; `kind` names its type."""

    def __init__(self, where: str, kind: str) -> None:
        self.where, self.kind = where, kind
        super().__init__(f"{kind} at {where or 'the top'} has no JSON form")


def to_wire(value: Any, where: str = "", *, typed: bool = False) -> Any:
    """Give the JSON form of a value; a NumPy scalar becomes the Python number that it holds.

    With `typed` a value of any other type keeps that: an enum member, a date, a Path, a model, a plain type's subclass.
    Raises NotWireable, with the way to the first part that has no JSON form.
    """
    if value is None or value is True or value is False:
        return value
    if isinstance(value, Unkept):
        return value.wire
    if typed and type(value) not in _PLAIN and (parts := take_apart(value)) is not None:
        return _typed_wire(value, parts, where)
    if isinstance(value, str):
        return str.__str__(value)  # str(value) of a str-Enum is its member's name
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"$float": str(float(value))}
    if isinstance(value, int):
        return int(value)
    if isinstance(value, list):
        return [to_wire(item, f"{where}[{index}]", typed=typed) for index, item in enumerate(value)]
    if isinstance(value, tuple) and type(value) is tuple:
        return {"$tuple": [to_wire(item, f"{where}[{index}]", typed=typed) for index, item in enumerate(value)]}
    if isinstance(value, dict):
        items = [(key, to_wire(item, f"{where}[{key!r}]", typed=typed)) for key, item in value.items()]
        if all(type(key) is str and not key.startswith("$") for key in value):
            return dict(items)
        return {"$dict": [[to_wire(key, where, typed=typed), item] for key, item in items]}
    if isinstance(value, OutputRef):
        return {"$output": [value.step, *value.path]}
    if isinstance(value, ParamRef):
        return {"$param": [value.param, *value.path]}
    if isinstance(value, Template):
        return {"$text": [to_wire(part, where) for part in value.parts]}
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == () and hasattr(value, "item"):
        return to_wire(value.item(), where)
    raise NotWireable(where, f"{type(value).__module__}.{type(value).__qualname__}")


def _typed_wire(value: Any, parts: Parts, where: str) -> Any:
    first = [0] if parts.shows_first and parts.type else []
    try:
        return {"$value": [parts.type, to_wire(parts.of, where, typed=True), *first]}
    except NotWireable:
        if parts.type and (shown := shown_parts(value)) is not None:
            return {"$value": ["", to_wire(shown, where)]}
        raise


def is_whole(wire: Any) -> bool:
    """Return whether `from_wire` makes the same value again; False where the record only shows a part of it."""
    if isinstance(wire, dict):
        if wire.keys() == {"$value"} and not wire["$value"][0]:
            return False
        return all(map(is_whole, wire.values()))
    return all(map(is_whole, wire)) if isinstance(wire, list) else True


def from_wire(
    wire: Any,
    output: Callable[[str, tuple[str | int, ...]], Any] | None = None,
    param: Callable[[str, tuple[str | int, ...]], Any] | None = None,
) -> Any:
    """Give back the value. `output` and `param` look references up; without them references stay as they are."""
    if isinstance(wire, list):
        return [from_wire(item, output, param) for item in wire]
    if not isinstance(wire, dict):
        return wire
    if len(wire) == 1:
        (key, body), *_ = wire.items()
        if key == "$tuple":
            return tuple(from_wire(item, output, param) for item in body)
        if key == "$dict":
            return {from_wire(k, output, param): from_wire(v, output, param) for k, v in body}
        if key == "$float":
            return float(body)
        if key == "$output":
            step, *path = body
            return output(step, tuple(path)) if output else OutputRef(step, tuple(path))
        if key == "$param":
            name, *path = body
            return param(name, tuple(path)) if param else ParamRef(name, tuple(path))
        if key == "$text":
            parts = tuple(from_wire(part, output, param) for part in body)
            return "".join(map(as_text, parts)) if output and param else Template(parts)
        if key == "$value":
            return put_together(body[0], from_wire(body[1], output, param)) if body[0] else Unkept(wire)
    return {key: from_wire(item, output, param) for key, item in wire.items()}


def references(value: Any) -> Iterator[OutputRef | ParamRef]:
    """Give every reference inside a value, at any depth of lists, tuples, dicts and templates."""
    if isinstance(value, OutputRef | ParamRef):
        yield value
    elif isinstance(value, Template):
        for part in value.parts:
            if not isinstance(part, str):
                yield part
    elif isinstance(value, list | tuple):
        for item in value:
            yield from references(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from references(key)
            yield from references(item)
