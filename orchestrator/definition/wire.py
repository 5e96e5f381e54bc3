"""Values as JSON and back, exactly: arguments of calls on their way to a worker, small outputs on their way back.

Plain JSON values stand for themselves. What JSON has no word for is an object with one key that begins with "$":

    {"$tuple": [...]}          a tuple
    {"$dict": [[k, v], ...]}   a mapping whose keys are not all strings, or begin with "$"
    {"$float": "nan"}          nan, inf, -inf
    {"$output": [step, ...]}   OutputRef: step, then the path into its output
    {"$param": [param, ...]}   ParamRef: param, then the path into it
    {"$text": [...]}           Template: its parts
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from orchestrator.definition.model import OutputRef, ParamRef, Template


class NotWireable(TypeError):
    """A value has no exact JSON form. `where` is the way to it, such as "['model']"; `kind` names its type."""

    def __init__(self, where: str, kind: str) -> None:
        self.where, self.kind = where, kind
        super().__init__(f"{kind} at {where or 'the top'} has no JSON form")


def to_wire(value: Any, where: str = "") -> Any:
    """Give the JSON form of a value; a NumPy scalar becomes the Python number that it holds.

    Raises NotWireable, with the way to the first part that has no JSON form.
    """
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return str.__str__(value)  # str(value) of a str-Enum is its member's name
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"$float": str(float(value))}
    if isinstance(value, int):
        return int(value)
    if isinstance(value, list):
        return [to_wire(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, tuple) and type(value) is tuple:
        return {"$tuple": [to_wire(item, f"{where}[{index}]") for index, item in enumerate(value)]}
    if isinstance(value, dict):
        if all(type(key) is str and not key.startswith("$") for key in value):
            return {key: to_wire(item, f"{where}[{key!r}]") for key, item in value.items()}
        return {"$dict": [[to_wire(key, where), to_wire(item, f"{where}[{key!r}]")] for key, item in value.items()]}
    if isinstance(value, OutputRef):
        return {"$output": [value.step, *value.path]}
    if isinstance(value, ParamRef):
        return {"$param": [value.param, *value.path]}
    if isinstance(value, Template):
        return {"$text": [to_wire(part, where) for part in value.parts]}
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == () and hasattr(value, "item"):
        return to_wire(value.item(), where)
    raise NotWireable(where, f"{type(value).__module__}.{type(value).__qualname__}")


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
            return "".join(map(str, parts)) if output and param else Template(parts)
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
