"""Scalars that JSON has no word for, by the name of their type: NumPy's, enum members, text that is
not Unicode.

NumPy is not imported here: a process with one of its scalars has it already, and it is loaded when
one is read back.
"""

from __future__ import annotations

import base64
import importlib
import math
import sys
from enum import Enum
from operator import attrgetter
from typing import Any

from orchestrator.definition.callables import resolve_class
from orchestrator.definition.typed import NotRestorable
from orchestrator.errors import FunctionNotFound

KEYS = frozenset({"$numpy", "$enum", "$str"})


def scalar_form(value: Any) -> dict[str, Any] | None:
    """Return the wire form of a scalar, None where it has none."""
    kind = type(value)
    if isinstance(value, Enum):
        return _enum_form(value)
    if kind is str:
        return {"$str": base64.b64encode(value.encode("utf-8", "surrogatepass")).decode()}
    if kind.__module__ == "numpy" and any(base.__name__ == "generic" for base in kind.__mro__):
        return _numpy_form(value)
    return None


def scalar_of(key: str, body: Any) -> Any:
    """Return the scalar of a wire form. Raises NotRestorable."""
    if key == "$str":
        return base64.b64decode(body).decode("utf-8", "surrogatepass")
    return _enum_member(*body) if key == "$enum" else _numpy_scalar(*body)


def shown_scalar(key: str, body: Any) -> Any:
    """Return what stands for the scalar of a wire form in plain JSON: a number or a text."""
    if key == "$str":
        return str(scalar_of(key, body)).encode("utf-8", "backslashreplace").decode()
    return body[2] if key == "$enum" else body[1]


def is_unicode(text: str) -> bool:
    """Whether a text can be encoded: JSON would make one character of two halves of a surrogate
    pair."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _enum_form(member: Enum) -> dict[str, Any] | None:
    kind = type(member)
    module = sys.modules.get(kind.__module__)
    try:
        is_importable = (
            kind.__module__ != "__main__" and attrgetter(kind.__qualname__)(module) is kind
        )
    except AttributeError:  # made in a function, or its module was imported anew
        is_importable = False
    if not is_importable:
        return None
    value = member.value
    if kind.__members__.get(member.name or "") is member:
        return {
            "$enum": [
                f"{kind.__module__}:{kind.__qualname__}",
                member.name,
                _shown(value, member.name),
            ]
        }
    if type(value) is int:  # flags together
        return {"$enum": [f"{kind.__module__}:{kind.__qualname__}", None, value]}
    return None


def _shown(value: Any, name: str) -> Any:
    if (
        value is None
        or type(value) in (bool, int)
        or (type(value) is float and math.isfinite(value))
    ):
        return value
    return str.__str__(value) if isinstance(value, str) and is_unicode(value) else name


def _enum_member(type_name: str, name: str | None, value: Any) -> Any:
    try:
        kind: Any = resolve_class(type_name)
        return kind(value) if name is None else kind[name]
    except FunctionNotFound as error:
        raise NotRestorable(f"it is a {type_name}: {error}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise NotRestorable(
            f"it is {name or value!r} of {type_name}, which has no such member"
        ) from error


def _numpy_form(value: Any) -> dict[str, Any] | None:
    numpy = sys.modules["numpy"]
    name = type(value).__name__
    if getattr(numpy, name, None) is not type(value):
        return None
    kind, size = value.dtype.kind, value.dtype.itemsize
    if kind == "b":
        return {"$numpy": [name, bool(value)]}
    if kind in "iu":
        return {"$numpy": [name, int(value)]}
    if kind == "f" and size <= 8 and math.isfinite(value):
        return {"$numpy": [name, float(value)]}
    if kind == "U":
        return {"$numpy": [name, str.__str__(value)]} if is_unicode(value) else None
    if kind == "S":
        return {
            "$numpy": [
                name,
                bytes(value).decode(errors="backslashreplace"),
                None,
                _base64(bytes(value)),
            ]
        }
    return _numpy_bytes_form(value, name)


def _numpy_bytes_form(value: Any, name: str) -> dict[str, Any] | None:
    """Return the form with the bytes of a scalar, for what no JSON number holds exactly."""
    dtype = value.dtype
    if dtype.hasobject or dtype.metadata or not dtype.itemsize or dtype.isalignedstruct:
        return None
    descr = importlib.import_module("numpy.lib.format").dtype_to_descr(dtype)
    try:
        again = _dtype(_listed(descr))
        if again != dtype or again.type is not type(value):
            # numpy.record and other types of the same fields
            return None
    except (TypeError, ValueError):
        return None
    if dtype.kind == "f":
        shown: Any = float(value) if math.isfinite(float(value)) else str(float(value))
    else:
        shown = str(value)
    return {"$numpy": [name, shown, _listed(descr), _base64(value.tobytes())]}


def _numpy_scalar(name: str, shown: Any, descr: Any = None, data: str | None = None) -> Any:
    try:
        numpy: Any = importlib.import_module("numpy")
        if descr is not None and data is not None:
            return numpy.frombuffer(base64.b64decode(data), dtype=_dtype(descr)).copy()[0]
        kind = getattr(numpy, "bool_" if name == "bool" else name)
    except (ImportError, AttributeError) as error:
        raise NotRestorable(f"a numpy.{name} cannot be read here: {error}") from error
    return kind(shown if data is None else base64.b64decode(data))


def _listed(descr: Any) -> Any:
    """Return a description of a dtype as JSON gives it back."""
    return [_listed(part) for part in descr] if isinstance(descr, list | tuple) else descr


def _dtype(descr: Any) -> Any:
    return importlib.import_module("numpy.lib.format").descr_to_dtype(_fields(descr))


def _fields(descr: Any) -> Any:
    if not isinstance(descr, list):
        return descr
    return [
        (tuple(name) if isinstance(name, list) else name, _fields(inner), *map(tuple, shape))
        for name, inner, *shape in descr
    ]


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
