"""Values as JSON and back, exactly: arguments of calls on their way to a worker, small outputs on
their way back.

Plain JSON values stand for themselves. What JSON has no word for is an object with one key that
begins with "$":

    {"$tuple": [...]}          a tuple {"$dict": [[k, v], ...]}   a mapping whose keys are not all
    strings, or begin with "$" {"$float": "nan"}          nan, inf, -inf {"$output": [step, ...]}
    OutputRef: step, then the path into its output {"$param": [param, ...]}   ParamRef: param, then
    the path into it {"$file": {...}}           an OutputRef or a ParamRef of which a command gets a
    file {"$text": [...]}           Template: its parts {"$value": [type, parts]}  a value of
    another type, see `definition.typed`; with a third item, 0, the first of its
                               parts is what people are shown. In params only
    {"$mapping": [type, [[k, v], ...], factory]}  a Counter, an OrderedDict or a defaultdict
    (`factory` for that only) {"$numpy": [type, shown]}  a NumPy scalar, `shown` being a number or
    text; with two more items, its dtype and its
                               bytes, where these alone are exact
    {"$enum": [type, name, shown]}  an enum member; no name for flags together
    {"$str": base64}           text with halves of surrogate pairs
Versions before these forms wrote plain numbers and text for them, which still are read.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from orchestrator.definition.pipeline import OutputRef, ParamRef, Template
from orchestrator.definition.typed import (
    NotRestorable,
    Parts,
    Unkept,
    as_text,
    put_together,
    shown_parts,
    take_apart,
)
from orchestrator.definition.wire_scalars import KEYS, is_unicode, scalar_form, scalar_of

# a little less than 4,300 digits, beyond which Python refuses to write or read an int as text
_INT_BITS = 14_000
_MAPPINGS = frozenset({Counter, OrderedDict, defaultdict})
_FACTORIES: dict[str, Any] = {
    kind.__name__: kind for kind in (int, float, str, bool, list, dict, set, tuple)
}


class NotWireable(TypeError):
    """A value has no exact JSON form. `where` is the way to it, such as "['model']"; `kind` names
    its type."""

    def __init__(self, where: str, kind: str) -> None:
        self.where, self.kind = where, kind
        super().__init__(f"{kind} at {where or 'the top'} has no JSON form")


def to_wire(value: Any, where: str = "", *, typed: bool = False) -> Any:
    """Return the JSON form of a value, from which `from_wire` makes one of the same type and value.

    With `typed` more types have a form: a date, a Path, a model, a plain type's subclass and
    others. Raises NotWireable, with the way to the first part that has no such form.
    """
    kind = type(value)
    if value is None or kind is bool or (kind is int and value.bit_length() <= _INT_BITS):
        return value
    if kind is str and is_unicode(value):
        return value
    if kind is float:
        return value if math.isfinite(value) else {"$float": str(value)}
    if kind is list:
        return [to_wire(item, f"{where}[{index}]", typed=typed) for index, item in enumerate(value)]
    if kind is tuple:
        return {
            "$tuple": [
                to_wire(item, f"{where}[{index}]", typed=typed) for index, item in enumerate(value)
            ]
        }
    if kind is dict:
        if all(type(key) is str and not key.startswith("$") and is_unicode(key) for key in value):
            return {
                key: to_wire(item, f"{where}[{key!r}]", typed=typed) for key, item in value.items()
            }
        return {"$dict": _pairs(value, where, typed)}
    if (form := _special_form(value, where, typed)) is not None:
        return form
    if typed and (parts := take_apart(value)) is not None:
        return _typed_wire(value, parts, where)
    raise NotWireable(where, f"{kind.__module__}.{kind.__qualname__}")


def _special_form(value: Any, where: str, typed: bool) -> Any:
    """Return the form of a mapping, a reference, a template or a scalar; None for all else."""
    kind = type(value)
    if kind in _MAPPINGS and (form := _mapping_form(value, where, typed)) is not None:
        return form
    if kind is OutputRef or kind is ParamRef:
        is_output = kind is OutputRef
        name, first = ("$output", value.step) if is_output else ("$param", value.param)
        form = {name: [first, *value.path]}
        return {"$file": form} if value.as_file else form
    if kind is Template:
        return {"$text": [to_wire(part, where) for part in value.parts]}
    return value.wire if kind is Unkept else scalar_form(value)


def _pairs(value: dict[Any, Any], where: str, typed: bool) -> list[list[Any]]:
    return [
        [to_wire(key, where, typed=typed), to_wire(item, f"{where}[{key!r}]", typed=typed)]
        for key, item in value.items()
    ]


def _mapping_form(value: dict[Any, Any], where: str, typed: bool) -> dict[str, Any] | None:
    if getattr(value, "__dict__", None):  # attributes of its own
        return None
    factory = getattr(value, "default_factory", None)
    if factory is not None and _FACTORIES.get(getattr(factory, "__name__", "")) is not factory:
        return None
    return {
        "$mapping": [
            type(value).__name__,
            _pairs(value, where, typed),
            *([factory.__name__] if factory else []),
        ]
    }


def _typed_wire(value: Any, parts: Parts, where: str) -> Any:
    first = [0] if parts.shows_first and parts.type else []
    try:
        return {"$value": [parts.type, to_wire(parts.of, where, typed=True), *first]}
    except NotWireable:
        if parts.type and (shown := shown_parts(value)) is not None:
            return {"$value": ["", to_wire(shown, where)]}
        raise


def is_whole(wire: Any) -> bool:
    """Return whether `from_wire` makes the same value again; False where the record only shows a
    part of it."""
    if isinstance(wire, dict):
        if wire.keys() == {"$value"} and not wire["$value"][0]:
            return False
        return all(map(is_whole, wire.values()))
    return all(map(is_whole, wire)) if isinstance(wire, list) else True


def from_wire(
    wire: Any,
    output: Callable[[str, tuple[str | int, ...]], Any] | None = None,
    param: Callable[[str, tuple[str | int, ...]], Any] | None = None,
    *,
    is_lenient: bool = False,
) -> Any:
    """Return the value. `output` and `param` look references up; without them references stay as
    they are.

    Raises NotRestorable where a type is not there; `is_lenient` leaves an `Unkept` in place of such
    a value.
    """

    return _Reader(output, param, is_lenient).read(wire)


class _Reader:
    """Makes values of the wire form, see `from_wire`."""

    def __init__(
        self,
        output: Callable[[str, tuple[str | int, ...]], Any] | None,
        param: Callable[[str, tuple[str | int, ...]], Any] | None,
        is_lenient: bool,
    ) -> None:
        self._output, self._param, self._is_lenient = output, param, is_lenient

    def read(self, wire: Any) -> Any:
        if isinstance(wire, list):
            return [self.read(item) for item in wire]
        if not isinstance(wire, dict):
            return wire
        if len(wire) == 1:
            (key, body), *_ = wire.items()
            if key in KEYS or key == "$value":
                return self._restored(wire, key, body)
            if special := _SPECIAL.get(key):
                return special(self, body)
        return {key: self.read(item) for key, item in wire.items()}

    def _restored(self, wire: dict[str, Any], key: str, body: Any) -> Any:
        try:
            if key in KEYS:
                return scalar_of(key, body)
            name, parts = body[:2]
            return put_together(name, self.read(parts)) if name else Unkept(wire)
        except NotRestorable as error:
            if self._is_lenient:
                return Unkept(wire, str(error))
            raise

    def _tuple(self, body: Any) -> Any:
        return tuple(self.read(item) for item in body)

    def _dict(self, body: Any) -> Any:
        return {self.read(key): self.read(value) for key, value in body}

    def _mapping(self, body: Any) -> Any:
        return _mapping(body[0], self._dict(body[1]), *body[2:])

    def _output_of(self, body: Any) -> Any:
        step, *path = body
        return self._output(step, tuple(path)) if self._output else OutputRef(step, tuple(path))

    def _param_of(self, body: Any) -> Any:
        name, *path = body
        return self._param(name, tuple(path)) if self._param else ParamRef(name, tuple(path))

    def _file(self, body: Any) -> Any:
        found = self.read(body)
        return replace(found, as_file=True) if isinstance(found, OutputRef | ParamRef) else found

    def _text(self, body: Any) -> Any:
        parts = tuple(self.read(part) for part in body)
        return "".join(map(as_text, parts)) if self._output and self._param else Template(parts)


_SPECIAL: dict[str, Callable[[_Reader, Any], Any]] = {
    "$tuple": _Reader._tuple,
    "$dict": _Reader._dict,
    "$float": lambda _, body: float(body),
    "$mapping": _Reader._mapping,
    "$output": _Reader._output_of,
    "$param": _Reader._param_of,
    "$file": _Reader._file,
    "$text": _Reader._text,
}


def _mapping(name: str, items: dict[Any, Any], factory: str | None = None) -> Any:
    if name == "defaultdict":
        return defaultdict(_FACTORIES[factory] if factory else None, items)
    return OrderedDict(items) if name == "OrderedDict" else Counter(items)


def references(value: Any) -> Iterator[OutputRef | ParamRef]:
    """Return every reference inside a value, at any depth of lists, tuples, dicts and templates."""
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
