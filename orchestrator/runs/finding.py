"""Which run is meant by what a person wrote, and which runs there are of a kind."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from orchestrator.errors import RunNotFound
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.states import RunState

LABEL = re.compile(r"[A-Za-z0-9._-]{1,63}")
LABEL_CHARS = 200
NO_RUN = "there is no run yet. Start one: orchestrator run FILE"
_FILTERED = ("state", "pipeline", "created_at", "labels")


def find_run(ledger: Ledger, text: str) -> str:
    """Return the run that is meant by an id, the beginning of one, or "last". Raises
    RunNotFound."""
    if text == "last":
        newest = ledger.recent_runs(1)
        if not newest:
            raise RunNotFound(NO_RUN)
        return newest[0]
    if not text:
        raise RunNotFound("an empty text names no run")
    if ledger.exists(text):
        return text
    begun = ledger.runs_that_begin_with(text)
    if len(begun) == 1:
        return begun[0]
    if begun:
        more = ", …" if len(begun) > 5 else ""
        raise RunNotFound(
            f"{text!r} is the beginning of {len(begun)} runs: {', '.join(begun[:5])}{more}"
        )
    newest = ledger.recent_runs(1)
    if not newest:
        raise RunNotFound(f"there is no run {text!r}: {NO_RUN}")
    raise RunNotFound(f"there is no run {text!r}. The newest is {newest[0]}.")


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs are asked for: of one pipeline, in one state, with these labels, created at or
    after `since_us`. What is empty asks for all."""

    pipeline: str = ""
    state: RunState | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    since_us: int = 0

    def takes(self, fields: Mapping[str, str]) -> bool:
        """Return whether a run with these fields is asked for."""
        if self.pipeline and fields["pipeline"] != self.pipeline:
            return False
        if self.state and fields["state"] != self.state:
            return False
        return not self.labels or self.labels.items() <= labels_in(fields).items()


def list_runs(ledger: Ledger, wanted: RunFilter, limit: int, before: str = "") -> Iterator[str]:
    """Yield the ids of the runs that are asked for, newest first, at most `limit`; only runs that
    are older than `before` if that is named. Raises RunUnknown."""
    left = limit
    for run_id, fields in ledger.newest_runs(_FILTERED, before):
        if not left or int(fields["created_at"]) < wanted.since_us:
            return
        if wanted.takes(fields):
            left -= 1
            yield run_id


def labels_in(fields: Mapping[str, str]) -> dict[str, str]:
    """Return the labels of a run."""
    labels: dict[str, str] = json.loads(fields.get("labels") or "{}")
    return labels


def read_labels(pairs: Iterable[str]) -> dict[str, str]:
    """Return the labels that "key=value" texts give. Raises ValueError with a sentence."""
    labels = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not LABEL.fullmatch(name) or len(value) > LABEL_CHARS:
            raise ValueError(
                f"{pair!r} is not a label. Write 'name=value': a name of letters, digits, '.', '_'"
                f" and '-', a value of at most {LABEL_CHARS} characters."
            )
        labels[name] = value
    return labels
