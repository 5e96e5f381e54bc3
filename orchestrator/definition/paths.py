"""The way into a value: keys of mappings and indexes of sequences, outermost first."""

from __future__ import annotations

from typing import Any


def value_at(value: Any, path: tuple[str | int, ...], what: str) -> Any:
    """Return the part of a value at a path. Raises KeyError, which says what there is of `what`."""
    for key in path:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            has = (
                f"its keys are {', '.join(map(repr, value))[:200]}"
                if isinstance(value, dict)
                else f"it is a {type(value).__name__}"
            )
            raise KeyError(f"the {what} has no {key!r}; {has}") from None
    return value
