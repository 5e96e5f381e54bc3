"""Amounts of memory as people write them: bytes, or a number with a unit."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

_UNITS = {
    "": 1,
    **{unit: 1000**n for n, unit in enumerate("KMGT", 1)},
    **{f"{u}i": 1024**n for n, u in enumerate("KMGT", 1)},
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]i?)?B?", re.IGNORECASE)


def parse_size(value: Any) -> Any:
    """Return the bytes of "2GB", "512MiB" or "1.5 GB"; anything but text stays as it is. Raise
    ValueError."""
    if not isinstance(value, str):
        return value
    found = _SIZE.fullmatch(value.strip())
    if found is None:
        raise ValueError(
            f"{value!r} is not an amount of memory. Write bytes, or a number with a unit, as in"
            " '2GB' or '512MiB'"
        )
    number, unit = found[1], (found[2] or "")
    return int(float(number) * _UNITS[unit[:1].upper() + unit[1:].lower()])


Size = Annotated[
    int,
    BeforeValidator(parse_size),
    Field(gt=0, strict=True),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "exclusiveMinimum": 0},
                {"type": "string", "pattern": r"^\s*\d+(\.\d+)?\s*([KMGTkmgt]i?)?[Bb]?\s*$"},
            ]
        }
    ),
]
