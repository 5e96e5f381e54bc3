"""The errors of the definition side.

OrchestratorError
├── PipelineInvalid      the pipeline has faults; holds all of them
├── SettingsInvalid      a setting is unknown or has a wrong value
├── FunctionNotFound     a "module:function" leads nowhere, or a function has no such name
├── PlaceholderMisuse    the output of a step was used as a value while the pipeline was being built
└── PipelineMisuse       a pipeline was called like a function
"""

from __future__ import annotations

import re
from collections.abc import Collection

from pydantic import ValidationError

from orchestrator.errors import (
    did_you_mean,
    names_hint,
)

GUESSED_AMONG_MAX = 2000  # beyond this many known words only those of like length and first letter are looked at
NAMES_SHOWN, NAMES_CHARS = 100, 300  # most that a hint says of the names that there are


def validation_faults(owner: str, noun: str, error: ValidationError, known: Collection[str]) -> list[str]:
    """Give a sentence for each error that pydantic found in the values of `owner`, such as "step 'train'".

    `noun` is what a key of the owner is called ("option", "key"); `known` are the keys that it may have.
    """
    faults = []
    for found in error.errors(include_url=False):
        key, *way = found["loc"] or ("",)
        place = repr(key) + "".join(f"[{part!r}]" for part in way)
        if found["type"] == "extra_forbidden" and not way:
            faults.append(f"{owner} has an unknown {noun} {key!r}.{names_hint(str(key), known)}")
        elif found["type"] == "missing":
            faults.append(f"{owner} lacks the {noun} {place}.")
        elif key == "alerts":  # what was given is not shown: it may hold passwords
            rule = "an Apprise URL, as in 'slack://$TOKEN/#ml'" if way else "a list of Apprise URLs"
            faults.append(f"{owner}: {noun} {place} must be {rule}.")
        elif found["type"] == "string_pattern_mismatch" and str(key).endswith("retry_on"):
            faults.append(
                f"{owner}: {noun} {place} is {found['input']!r}, which names no exception class. "
                "Write 'ValueError' or 'module:Class', and define the class at module level."
            )
        elif found["type"] == "string_pattern_mismatch" and key == "uses":
            faults.append(f"{owner}: {noun} 'uses' is {_shown(found['input'])}, but it must be 'module:function'.")
        else:
            rule = re.sub(r"^\w+ should", "it must", found["msg"]).replace("valid dictionary", "mapping")
            for pydantics, ours in (
                ("a valid tuple", "a list"),
                ("a valid list", "a list"),
                ("a valid string", "text"),
            ):
                rule = rule.replace(pydantics, ours)
            text = found["input"] if isinstance(found["input"], str) else ""
            choices = re.findall(r"'([^']+)'", found.get("ctx", {}).get("expected", "") if text else "")
            guess = did_you_mean(text, choices)
            faults.append(f"{owner}: {noun} {place} is {_shown(found['input'])}, but {rule}.{guess}")
    return faults


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
