"""What pydantic finds wrong with values, in our words: by the type of its error, not by its
English."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import ValidationError

from orchestrator.errors import did_you_mean, names_hint
from orchestrator.wording import punctuated

RULES = {
    **dict.fromkeys(
        ("int_type", "int_from_float", "int_parsing", "int_parsing_size"), "a valid integer"
    ),
    **dict.fromkeys(("float_type", "float_parsing"), "a valid number"),
    "finite_number": "a finite number",
    **dict.fromkeys(("bool_type", "bool_parsing"), "a valid boolean"),
    **dict.fromkeys(("string_type", "string_sub_type"), "text"),
    **dict.fromkeys(("list_type", "tuple_type", "set_type", "iterable_type"), "a list"),
    **dict.fromkeys(
        ("dict_type", "mapping_type", "model_type", "model_attributes_type"), "a mapping"
    ),
    "greater_than": "greater than {gt}",
    "greater_than_equal": "greater than or equal to {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "less than or equal to {le}",
    "string_too_short": "text of {min_length} characters at least",
    "string_too_long": "text of {max_length} characters at most",
    **dict.fromkeys(("literal_error", "enum"), "{expected}"),
}
"""What a value must be, by the type of pydantic's error
(https://docs.pydantic.dev/latest/errors/validation_errors/)."""


def validation_faults(
    owner: str, noun: str, error: ValidationError, known: Collection[str]
) -> list[str]:
    """Return a sentence for each error that pydantic found in the values of `owner`, such as "step
    'train'".

    `noun` is what a key of the owner is called ("option", "key"); `known` are the keys that it may
    have.
    """
    return [_fault(owner, noun, found, known) for found in error.errors(include_url=False)]


def _fault(owner: str, noun: str, found: Any, known: Collection[str]) -> str:
    key, *way = found["loc"] or ("",)
    place = f"{noun} {key!r}" + "".join(f"[{part!r}]" for part in way)
    kind, given = found["type"], _shown(found["input"])
    if kind == "extra_forbidden" and not way:
        return f"{owner} has an unknown {noun} {key!r}.{names_hint(str(key), known)}"
    if kind == "missing":
        return f"{owner} lacks the {place}."
    if key == "alerts":  # the given value is not shown: it may hold passwords
        rule = "an Apprise URL, as in 'slack://$TOKEN/#ml'" if way else "a list of Apprise URLs"
        return f"{owner}: {place} must be {rule}."
    if kind == "string_pattern_mismatch" and str(key).endswith("retry_on"):
        return (
            f"{owner}: {place} is {found['input']!r}, which names no exception class. "
            "Write 'ValueError' or 'module:Class', and define the class at module level."
        )
    if kind == "string_pattern_mismatch" and key == "uses":
        return f"{owner}: {place} is {given}, but it must be 'module:function'."
    context: Mapping[str, Any] = found.get("ctx", {})
    if kind not in RULES:
        return f"{owner}: {place} is {given}: {punctuated(context.get('error') or found['msg'])}"
    rule = RULES[kind].format_map({name: _number(value) for name, value in context.items()})
    return f"{owner}: {place} is {given}, but it must be {rule}.{_guess(found['input'], context)}"


def _guess(given: object, context: Mapping[str, Any]) -> str:
    """Return a guess at the word that was meant, where only some are allowed."""
    expected = str(context.get("expected", ""))
    words = [word for word in expected.replace(" or ", ", ").replace("'", "").split(", ") if word]
    return did_you_mean(given, words) if isinstance(given, str) and words else ""


def _number(value: object) -> object:
    """Return 5 for 5.0, as people write it."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
