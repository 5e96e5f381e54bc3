"""Values that are not plain JSON, by the name of their type and plain parts: what a param may be
beside JSON.

Made from parts without the validators of the type, so that a value which was validated once is not
converted again. A type is named as an importable class is, "pathlib:PosixPath" or
"shop.orders:Order".
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from pydantic import BaseModel, SecretBytes, SecretStr
from pydantic_core import to_jsonable_python

from orchestrator.definition.callables import class_name, resolve_class
from orchestrator.errors import FunctionNotFound


class Parts(NamedTuple):
    """A value taken apart. `type` is empty where nothing can make the value again: then `of` is
    only for people.

    With `shows_first` the first part alone says to people what the value is.
    """

    type: str
    of: Any
    shows_first: bool = False


class NotRestorable(ValueError):
    """A value of that type cannot be made again from its parts: its class is gone, or is another
    one by now."""


@dataclasses.dataclass(frozen=True, slots=True)
class Unkept:
    """Stands for a value that cannot be made again from its wire form, which it holds."""

    wire: Any
    reason: str = "the record keeps only what it shows"

    def __hash__(self) -> int:  # it may stand in a set, or for the key of a mapping
        return hash(json.dumps(self.wire, sort_keys=True))


class _Form(NamedTuple):
    take: Callable[[Any], Any]  # the parts of a value
    make: Callable[[Any, Any], Any]  # the value, of its type and its parts
    shows_first: bool = False


def take_apart(value: Any) -> Parts | None:
    """Return the parts of a value that is not plain JSON; None where there are none, not even to be
    shown.

    Whether the parts make the same value again is tried now, so that nobody depends on it later
    without reason.
    """
    if isinstance(value, SecretStr | SecretBytes):
        return Parts("", str(value))
    kind = type(value)
    form = _form_of(kind)
    try:
        name = class_name(kind)
        parts = form.take(value)
        again = form.make(kind, parts)
        is_same = type(again) is kind and repr(form.take(again)) == repr(parts)
        if resolve_class(name) is kind and is_same and (form is not _TEXT or again == value):
            return Parts(name, parts, form.shows_first)
    except Exception:
        # code of the user's class: what it raises says that its values cannot be kept in this way
        pass
    shown = shown_parts(value)
    return None if shown is None else Parts("", shown)


def put_together(name: str, parts: Any) -> Any:
    """Return the value of the type of that name, without its validators. Raises NotRestorable."""
    try:
        kind = resolve_class(name)
        return _form_of(kind).make(kind, parts)
    except FunctionNotFound as error:
        raise NotRestorable(f"it is a {name}: {error}") from None
    except Exception as error:
        raise NotRestorable(f"it is a {name}, which cannot be made of {parts!r}: {error}") from None


def shown_parts(value: Any) -> Any:
    """Return plain JSON that shows a value to people, None if there is none."""
    with contextlib.suppress(Exception):
        return to_jsonable_python(value)
    return None


def as_text(value: Any) -> str:
    """Return a value as it stands in a text: that of an enum member is its value."""
    return as_text(value.value) if isinstance(value, Enum) else str(value)


def _take_moment(value: Any) -> list[Any]:
    zone = value.tzinfo
    return [
        value.isoformat(),
        *([zone.key] if isinstance(zone, ZoneInfo) else []),
        *([1] if value.fold else []),
    ]


def _make_moment(kind: Any, parts: Any) -> Any:
    text, *more = parts
    made = kind.fromisoformat(text)
    for part in more:
        made = made.replace(fold=1) if part == 1 else made.replace(tzinfo=ZoneInfo(part))
    return made


def _take_model(value: BaseModel) -> list[Any]:
    state = value.__getstate__()
    was_set = sorted(state["__pydantic_fields_set__"])
    return [state["__dict__"], was_set, state["__pydantic_extra__"], state["__pydantic_private__"]]


def _make_model(kind: Any, parts: Any) -> Any:
    values, was_set, extra, private = parts
    made = kind.__new__(kind)
    made.__setstate__({
        "__dict__": values,
        "__pydantic_fields_set__": set(was_set),
        "__pydantic_extra__": extra,
        "__pydantic_private__": private,
    })  # fmt: skip
    return made


def _take_span(value: Any) -> list[Any]:
    return [to_jsonable_python(value), value.days, value.seconds, value.microseconds]


def _take_record(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def _make_record(kind: Any, parts: Any) -> Any:
    made = kind.__new__(kind)
    for name, part in parts.items():
        object.__setattr__(made, name, part)
    return made


def _of(kind: Any, parts: Any) -> Any:
    return kind(parts)


def _of_each(kind: Any, parts: Any) -> Any:
    return kind(*parts)


_RECORD = _Form(_take_record, _make_record)
_TEXT = _Form(str, _of)
_ENUM = _Form(lambda value: value.value, _of)
_MODEL = _Form(_take_model, _make_model, True)
_MOMENT = _Form(_take_moment, _make_moment, True)
_DAY = _Form(lambda value: value.isoformat(), lambda kind, parts: kind.fromisoformat(parts))
_SPAN = _Form(_take_span, lambda kind, parts: kind(*parts[1:]), True)
_BYTES = _Form(
    lambda value: value.decode("latin-1"), lambda kind, parts: kind(parts.encode("latin-1"))
)
_SET = _Form(lambda value: sorted(value, key=repr), _of)
_SLICE = _Form(lambda value: [value.start, value.stop, value.step], _of_each)
_TUPLE = _Form(
    list, lambda kind, parts: kind._make(parts) if hasattr(kind, "_make") else kind(parts)
)
_FORMS = {  # by the nearest base; times by name, since what knows no clock does not import them
    "datetime.datetime": _MOMENT,
    "datetime.time": _MOMENT,
    "datetime.date": _DAY,
    "datetime.timedelta": _SPAN,
    "builtins.bytes": _BYTES,
    "builtins.bytearray": _BYTES,
    "builtins.set": _SET,
    "builtins.frozenset": _SET,
    "builtins.range": _SLICE,
    "builtins.slice": _SLICE,
    "builtins.complex": _Form(lambda value: [value.real, value.imag], _of_each),
    "builtins.tuple": _TUPLE,
    "builtins.dict": _Form(dict, _of),
    "builtins.list": _Form(list, _of),
    "builtins.str": _Form(str.__str__, _of),
    "builtins.int": _Form(int, _of),
    "builtins.float": _Form(float, _of),
    "collections.deque": _Form(lambda value: [list(value), value.maxlen], _of_each, True),
    "re.Pattern": _Form(
        lambda value: [value.pattern, value.flags], lambda _, parts: re.compile(*parts), True
    ),
}


def _form_of(kind: type) -> _Form:
    if issubclass(kind, Enum):
        return _ENUM
    if issubclass(kind, BaseModel):
        return _MODEL
    if dataclasses.is_dataclass(kind):
        return _RECORD
    names = (f"{base.__module__}.{base.__qualname__}" for base in kind.__mro__)
    return next((_FORMS[name] for name in names if name in _FORMS), _TEXT)
