"""The errors of the definition side.

OrchestratorError
├── PipelineInvalid      the pipeline has faults; holds all of them
└── SettingsInvalid      a setting is unknown or has a wrong value
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class OrchestratorError(Exception):
    """Root of every error that the user can mend; the CLI prints it without a traceback."""


class SettingsInvalid(OrchestratorError):
    """A setting is unknown or has a wrong value; the message names each."""


class PipelineInvalid(OrchestratorError):
    """A pipeline has faults. `faults` holds one sentence for each, with name, reason and a near-miss guess."""

    def __init__(self, pipeline: str, faults: Iterable[str]) -> None:
        self.pipeline = pipeline
        self.faults = tuple(faults)
        count = len(self.faults)
        head = f"pipeline {pipeline!r} has {count} fault{'s' if count != 1 else ''}"
        super().__init__("\n".join([head, *("  " + fault.replace("\n", "\n  ") for fault in self.faults)]))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Give " Did you mean 'x'?" for the nearest known word, or an empty string."""
    near = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""
