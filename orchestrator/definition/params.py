"""The params of a pipeline: declared once, validated for each run.

A value is validated, and converted by that, at one place: where a text or a caller's value becomes
that of a param. From there on it goes as `ReadParams`, which nothing reads again: to the pipeline,
into the record, and out of it when a run goes on.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import json
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from orchestrator.definition.secrets import (
    HIDDEN,
    SecretValue,
    is_secret,
    may_be_none,
    secret_type_fault,
)
from orchestrator.definition.typed import NotRestorable, Unkept, take_apart
from orchestrator.definition.wire import NotWireable, from_wire, is_whole, to_wire
from orchestrator.errors import did_you_mean, names_hint
from orchestrator.wording import punctuated, with_article

REQUIRED: Any = inspect.Parameter.empty
SECRET_IS_GONE = "it is a secret, of which nothing is kept when a run has ended"
PLAIN_TYPES: dict[str, type] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": bool,
    "list": list,
    "dict": dict,
    "string": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "array": list,
    "object": dict,
}


@dataclass(frozen=True)
class Param:
    """A param as declared. `type` is any type that pydantic can check; `choices` is empty when all
    values are fine."""

    name: str
    type: Any = Any
    default: Any = REQUIRED
    description: str = ""
    choices: tuple[Any, ...] = ()

    @property
    def is_required(self) -> bool:
        """Return whether every run must give a value."""
        return self.default is REQUIRED

    @property
    def is_text(self) -> bool:
        """Whether the values are text, so that one which looks like a number is text all the
        same."""
        return self._plain_type is str or self.is_secret

    @property
    def is_secret(self) -> bool:
        """Whether the values are kept only while a run goes on, and never shown."""
        return is_secret(self.type)

    @property
    def _plain_type(self) -> Any:
        return (
            typing.get_args(self.type)[0]
            if typing.get_origin(self.type) is typing.Annotated
            else self.type
        )

    @property
    def type_name(self) -> str:
        """Return the type as a user would write it."""
        if self.is_secret:
            return "Secret[str]"
        plain = self._plain_type
        if isinstance(plain, type) and not typing.get_args(plain):
            return plain.__qualname__
        return str(plain).replace("typing.", "")

    def read(self, value: Any) -> Any:
        """Return the validated value; raises ValueError with a sentence that names the param.

        The plain types are taken strictly (no text for a number, no bool for an int), but an int is
        a float. The value of a secret becomes a SecretValue, and no sentence shows it.
        """
        if self.is_secret:
            return self._read_secret(value)
        try:
            checked = _adapter(self).validate_python(
                value, strict=True if _is_plain(self.type) else None
            )
        except ValidationError as error:
            raise ValueError(self._refusal(value, error)) from None
        if self.choices and checked not in self.choices:
            guess = did_you_mean(value, map(str, self.choices)) if isinstance(value, str) else ""
            choices = ", ".join(map(repr, self.choices))
            raise ValueError(
                f"param {self.name!r} is {value!r}, which is none of {choices}.{guess}"
            )
        return checked

    def _read_secret(self, value: Any) -> SecretValue | None:
        if value is None and may_be_none(self.type):
            return None
        if isinstance(value, SecretValue):
            return value
        if type(value) is not str:
            raise ValueError(
                f"param {self.name!r} is a secret, and must be text, not {type(value).__name__}."
            )
        return SecretValue(value)

    @property
    def how_to_give(self) -> str:
        """Say how a value is given that the run lacks."""
        if self.is_secret:
            return (
                f"Give it as -p {self.name}=@FILE, or as -p {self.name}=@- on standard input; at a"
                " terminal you are asked for it. Other users of the machine can see -p"
                f" {self.name}=VALUE."
            )
        article = "an" if self.type_name[:1].lower() in "aeiou" else "a"
        return f"Give {article} {self.type_name}."

    @property
    def declaration_fault(self) -> str:
        """Say what is wrong with the declaration of a secret; an empty string if nothing is."""
        if not self.is_secret:
            return ""
        if fault := secret_type_fault(self.type):
            return f"param {self.name!r} {fault}"
        if not self.is_required and not (self.default is None and may_be_none(self.type)):
            return (
                f"param {self.name!r} is a secret, so that None is its only possible default: code"
                " keeps no secrets."
            )
        if self.choices:
            return f"param {self.name!r} is a secret, and so has no choices."
        return ""

    def _refusal(self, value: Any, error: ValidationError) -> str:
        if _is_plain(self.type):
            return f"param {self.name!r} is {value!r}, which is not {with_article(self.type_name)}."
        reasons = "; ".join(
            "".join(f"[{part!r}]" for part in found["loc"])
            + " " * bool(found["loc"])
            + found["msg"]
            for found in error.errors(include_url=False)
        )
        kind = with_article(self.type_name)
        return f"param {self.name!r} is {value!r}, which is not {kind}: {punctuated(reasons)}"


@dataclass(frozen=True, slots=True)
class OpenValue:
    """Stands for the value of a param while a plan is only looked at."""


class ReadParams(Mapping[str, Any]):
    """Values of params that have been validated: who binds them takes them as they are."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __or__(self, other: ReadParams) -> ReadParams:
        """Return these with the values of the others, which are stronger."""
        return ReadParams({**self, **other}) if isinstance(other, ReadParams) else NotImplemented

    def __repr__(self) -> str:
        return f"ReadParams({self._values!r})"


def bind_params(
    declared: Mapping[str, Param], given: Mapping[str, Any]
) -> tuple[ReadParams, list[str]]:
    """Return the value of each param, and a sentence for each unknown, missing or wrong one.

    What was given is validated, unless it is `ReadParams`; so is each default that is used.
    """
    faults = [
        f"there is no param {name!r}.{names_hint(name, declared)}"
        for name in given
        if name not in declared
    ]
    faults += [fault for param in declared.values() if (fault := param.declaration_fault)]
    values = {}
    for name, param in declared.items():
        if name in given and isinstance(given, ReadParams):
            values[name] = given[name]
            continue
        if name not in given and param.is_required:
            secret = "a secret and " if param.is_secret else ""
            faults.append(
                f"param {name!r} is {secret}missing; it has no default. {param.how_to_give}"
            )
            continue
        try:
            values[name] = param.read(given[name] if name in given else _own_copy(param.default))
        except ValueError as error:
            faults.append(str(error))
    return ReadParams(values), faults


def with_open_params(declared: Mapping[str, Param], given: ReadParams) -> ReadParams:
    """Return the values, and an OpenValue for each param that would be missing."""
    missing = {
        name: OpenValue()
        for name, param in declared.items()
        if param.is_required and name not in given
    }
    return given | ReadParams(missing)


def recorded_params(values: Mapping[str, Any]) -> tuple[ReadParams, list[str]]:
    """Return copies of the values as the record gives them back, and a sentence for each that it
    cannot even show.

    A value of which the record keeps no more than what is shown stays itself.
    """
    recorded, faults = {}, []
    for name, value in values.items():
        recorded[name] = value
        if isinstance(value, SecretValue | OpenValue):
            continue
        try:
            wire = to_wire(value, typed=True)
            if is_whole(wire):
                recorded[name] = from_wire(wire)
        except NotWireable as error:
            place = f"param {name!r}" + (f" holds at {error.where}" if error.where else " is")
            faults.append(f"{place} a {error.kind}, which has no JSON form. Use plain values.")
        except RecursionError:
            faults.append(f"param {name!r} is nested too deeply, or contains itself.")
    return ReadParams(recorded), faults


def params_text(values: Mapping[str, Any]) -> str:
    """Return the values as the record keeps them: JSON, in the typed form of `definition.wire`."""
    wires = {
        name: HIDDEN if isinstance(value, SecretValue) else to_wire(value, typed=True)
        for name, value in values.items()
    }
    return json.dumps(wires)


def secrets_in(values: Mapping[str, Any]) -> dict[str, str]:
    """Return the texts of the secrets among the values of params."""
    return {name: value.text for name, value in values.items() if isinstance(value, SecretValue)}


def params_of_record(text: str, secrets: Collection[str] = ()) -> ReadParams:
    """Return the values of `params_text`, `Unkept` for one that cannot be made again: the
    `secrets`, and others."""
    values: dict[str, Any] = {}
    for name, wire in json.loads(text).items():
        if name in secrets:
            values[name] = Unkept(wire, SECRET_IS_GONE)
            continue
        try:
            values[name] = from_wire(wire) if is_whole(wire) else Unkept(wire)
        except NotRestorable as error:
            values[name] = Unkept(wire, str(error))
    return ReadParams(values)


def is_kept(value: Any) -> bool:
    """Return whether the record can give this value of a param back, with its type."""
    return isinstance(value, SecretValue | OpenValue) or is_whole(to_wire(value, typed=True))


def params_of_function(function: Callable[..., Any]) -> tuple[dict[str, Param], list[str]]:
    """Return the params that a function's parameters declare, and a sentence for each that cannot
    be one."""
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except Exception as error:  # annotations are evaluated code
        return {}, [
            f"the annotations of {function.__qualname__} cannot be read: {punctuated(error)}"
        ]
    params, faults = {}, []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            faults.append(f"parameter {name!r} takes any number of values. Name each param.")
            continue
        hint = hints.get(name, Any)
        params[name] = Param(name, hint, parameter.default, _description(hint))
    return params, faults


def inferred_param(name: str, value: Any) -> Param:
    """Return the param that a default value declares: of its type, or of any type when nothing
    checks that one."""
    kind = type(value)
    if kind in PLAIN_TYPES.values():
        return Param(name, kind, value)
    has_form = kind not in (tuple, type(None)) and take_apart(value) is not None
    return Param(name, _checkable(kind) if has_form else Any, value)


def _checkable(kind: type) -> Any:
    """Return the nearest class of which a text of the command line can be made."""
    for base in kind.__mro__[:-1]:
        with contextlib.suppress(PydanticSchemaGenerationError):
            _cached_adapter(base)
            return base
    return Any


def _own_copy(default: Any) -> Any:
    """Return a default that a run may change without changing that of the next one."""
    with contextlib.suppress(Exception):  # what cannot be copied is the user's to share
        return copy.deepcopy(default)
    return default


def _description(hint: Any) -> str:
    notes = typing.get_args(hint)[1:] if typing.get_origin(hint) is typing.Annotated else ()
    for note in notes:
        if isinstance(note, FieldInfo) and note.description:
            return note.description
        if isinstance(note, str):
            return note
    return ""


def _is_plain(kind: Any) -> bool:
    return isinstance(kind, type) and kind in (str, int, float, bool, list, dict)


def _adapter(param: Param) -> TypeAdapter[Any]:
    try:
        return _cached_adapter(param.type)
    except TypeError:  # the type cannot be hashed
        return TypeAdapter(param.type)


@lru_cache(maxsize=1000)
def _cached_adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
