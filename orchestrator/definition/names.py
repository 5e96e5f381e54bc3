"""The names that steps, pipelines and params may have."""

from __future__ import annotations

import re

NAME_LENGTH_MAX = 200
STEP_NAME = (  # "-x" is an option to a command
    rf"^(?=.*[A-Za-z0-9])(?!-)[A-Za-z0-9._\[\]-]{{1,{NAME_LENGTH_MAX}}}$"
)
PIPELINE_NAME = rf"^[A-Za-z0-9][A-Za-z0-9._-]{{0,{NAME_LENGTH_MAX - 1}}}$"
PARAM_NAME = rf"^[A-Za-z_][A-Za-z0-9._-]{{0,{NAME_LENGTH_MAX - 1}}}$"

# Python's "$" also matches before a last newline, JSON Schema's does not: match whole strings.
_STEP_NAME, _PIPELINE_NAME, _PARAM_NAME = (
    re.compile(p) for p in (STEP_NAME, PIPELINE_NAME, PARAM_NAME)
)


def step_name_fault(name: str) -> str:
    """Say what is wrong with the name of a step; an empty string if nothing is."""
    if _STEP_NAME.fullmatch(name) and not name.endswith("\n"):
        return ""
    demand = (
        "at least one letter or digit, and no - at its start, where commands take it for an option"
    )
    return f"step name {name!r} {_reason(name, 'letters, digits and . - _ [ ]', demand)}"


def pipeline_name_fault(name: str) -> str:
    """Say what is wrong with the name of a pipeline; an empty string if nothing is."""
    if _PIPELINE_NAME.fullmatch(name) and not name.endswith("\n"):
        return ""
    return (
        f"pipeline name {name!r}"
        f" {_reason(name, 'letters, digits and . - _', 'a letter or digit at its start')}"
    )


def param_name_fault(name: str) -> str:
    """Say what is wrong with the name of a param; an empty string if nothing is."""
    if _PARAM_NAME.fullmatch(name) and not name.endswith("\n"):
        return ""
    return (
        f"param name {name!r}"
        f" {_reason(name, 'letters, digits and . - _', 'a letter or _ at its start')}"
    )


def _reason(name: str, alphabet: str, demand: str) -> str:
    if len(name) > NAME_LENGTH_MAX:
        return f"is {len(name)} characters long; at most {NAME_LENGTH_MAX} are allowed."
    return f"is not allowed: a name holds ASCII {alphabet} only, with {demand}."
