"""Params that nobody may read afterwards: `Secret[str]`.

Until it is with the ledger, the value of such a param is a `SecretValue`, which shows itself to
nobody. A step gets plain text, for the libraries that it hands it to.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar, Union

HIDDEN = "***"  # what stands for a secret wherever it would be shown
MASKED_CHARS = 6  # a shorter secret would mask every other word
_T = TypeVar("_T")


class SecretMark:
    """Marks a type: values of it are kept only as long as a run goes on, and are masked wherever
    they show up."""

    def __repr__(self) -> str:
        return "secret"


Secret = Annotated[_T, SecretMark()]
"""The type of a secret param: `Secret[str]`, or `Secret[str] | None = None` for one that may be
left out."""


@dataclass(frozen=True, slots=True)
class SecretValue:
    """The value of a secret param on its way to the ledger."""

    text: str = field(repr=False)

    def __str__(self) -> str:
        return HIDDEN


def is_secret(kind: Any) -> bool:
    """Return whether a type declares a secret: `Secret[…]`, alone or beside None."""
    if typing.get_origin(kind) is Annotated:
        inner, *notes = typing.get_args(kind)
        return any(isinstance(note, SecretMark) for note in notes) or is_secret(inner)
    return any(is_secret(item) for item in _members(kind))


def secret_type_fault(kind: Any) -> str:
    """Say what is wrong with the type of a secret; an empty string if nothing is."""
    others = [item for item in _members(kind) if item is not type(None)] or [kind]
    plain = [
        typing.get_args(item)[0] if typing.get_origin(item) is Annotated else item
        for item in others
    ]
    if len(plain) == 1 and (plain[0] is str or isinstance(plain[0], TypeVar)):
        return ""
    return "is a secret, which is text: write Secret[str], or Secret[str] | None."


def may_be_none(kind: Any) -> bool:
    return type(None) in _members(kind)


def _members(kind: Any) -> tuple[Any, ...]:
    if (
        typing.get_origin(kind) is Annotated
        and typing.get_origin(typing.get_args(kind)[0]) is not None
    ):
        kind = typing.get_args(kind)[0]
    return typing.get_args(kind) if typing.get_origin(kind) in (Union, types.UnionType) else ()


def refer_to_secrets(wire: Any, secrets: Mapping[str, str]) -> Any:
    """Return the wire form of a value with references in place of the secrets in its texts.

    So a value that holds a secret is kept without it, and made whole again with what the run's
    secrets are then.
    """
    if isinstance(wire, str):
        return _referring(wire, secrets)
    if isinstance(wire, list):
        return [refer_to_secrets(item, secrets) for item in wire]
    if not isinstance(wire, dict):
        return wire
    if any(text in key for key in wire for text in secrets.values()):
        return {
            "$dict": [
                [_referring(key, secrets), refer_to_secrets(item, secrets)]
                for key, item in wire.items()
            ]
        }
    return {key: refer_to_secrets(item, secrets) for key, item in wire.items()}


def _referring(text: str, secrets: Mapping[str, str]) -> Any:
    names = {secret: name for name, secret in secrets.items()}
    pattern = "|".join(re.escape(secret) for secret in sorted(names, key=len, reverse=True))
    parts = [part for part in re.split(f"({pattern})", text) if part]
    if not any(part in names for part in parts):
        return text
    return {"$text": [{"$param": [names[part]]} if part in names else part for part in parts]}
