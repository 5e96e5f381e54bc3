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
from collections.abc import Collection, Iterable
from difflib import get_close_matches
from itertools import islice

from pydantic import ValidationError

GUESSED_AMONG_MAX = 2000  # beyond this many known words only those of like length and first letter are looked at
NAMES_SHOWN, NAMES_CHARS = 100, 300  # most that a hint says of the names that there are


class OrchestratorError(Exception):
    """Root of every error that the user can mend; the CLI prints it without a traceback."""


class SettingsInvalid(OrchestratorError):
    """A setting is unknown or has a wrong value; the message names each."""


class FunctionNotFound(OrchestratorError):
    """A function cannot be reached by its name; the message says which part of the name fails and why."""


class PlaceholderMisuse(OrchestratorError, TypeError):
    """A placeholder was used as if the output of its step were known already."""


class PipelineMisuse(OrchestratorError, TypeError):
    """A pipeline was called, as if it were a function or a step."""


class PipelineInvalid(OrchestratorError):
    """A pipeline has faults. `faults` holds one sentence for each, with name, reason and a near-miss guess."""

    def __init__(self, pipeline: str, faults: Iterable[str]) -> None:
        self.pipeline = pipeline
        self.faults = tuple(faults)
        count = len(self.faults)
        head = f"pipeline {pipeline!r} has {count} fault{'s' if count != 1 else ''}"
        super().__init__("\n".join([head, *("  " + fault.replace("\n", "\n  ") for fault in self.faults)]))

    def __reduce__(self) -> tuple[type[PipelineInvalid], tuple[str, tuple[str, ...]]]:
        return type(self), (self.pipeline, self.faults)


def punctuated(text: object, mark: str = ".") -> str:
    """Return a text of somebody else's (an error, a reason) as a part of our sentence, with the mark that follows it.

    It may be a sentence of its own: it gets no second full stop, nor one behind "?".
    """
    said = str(text).rstrip()
    if mark == "." and said.endswith((".", "?", "!", "…")):
        return said
    return said.rstrip(".") + mark


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Give " Did you mean 'x'?" for the nearest known word, or an empty string."""
    words = list(known)
    if len(words) > GUESSED_AMONG_MAX:
        alike = (w for w in words if w[:1] == word[:1] and abs(len(w) - len(word)) <= 3)
        words = list(islice(alike, GUESSED_AMONG_MAX))
    near = get_close_matches(word, words, n=1, cutoff=cutoff)
    return f" Did you mean {near[0]!r}?" if near else ""


def names_hint(word: str, known: Iterable[str]) -> str:
    """Return what helps who wrote a name that there is not: the nearest known one, or else which ones there are."""
    names = sorted(known) if isinstance(known, set | frozenset) else list(known)
    if near := did_you_mean(word, names):
        return near
    if not names:
        return " There are none."
    shown = [repr(name) for name in names[:NAMES_SHOWN]]
    while len(shown) > 1 and len(", ".join(shown)) > NAMES_CHARS:
        shown.pop()
    if len(names) == 1:
        return f" There is only {shown[0]}."
    more = f" and {len(names) - len(shown):,} more" if len(names) > len(shown) else ""
    return f" There are {', '.join(shown)}{more}."


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
