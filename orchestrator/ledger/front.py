"""The front of a run as it stands: what is decided and still to be written (`lua/front.lua`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from orchestrator.ledger.entries import parsed_json


@dataclass(frozen=True, slots=True)
class Front:
    """What stands in the front of a run, by steps.

    Children of `told` are still to hear that it has ended; `ready` wait for nothing, and are to be
    queued; `reused` are taken over from other runs; `reset` and `gone` are as they were before the
    resume, `past` still have their specs of then. `taken` is the id under which the steps of the
    resume are staged, "" once they are those of the run.
    """

    told: frozenset[str] = field(default=frozenset())
    ready: frozenset[str] = field(default=frozenset())
    reused: frozenset[str] = field(default=frozenset())
    reset: frozenset[str] = field(default=frozenset())
    gone: frozenset[str] = field(default=frozenset())
    past: frozenset[str] = field(default=frozenset())
    taken: str = ""

    @classmethod
    def of(cls, pages: Iterable[str]) -> Front:
        """Return what the pages of a front say, JSON [kind, what]."""
        items = [parsed_json(text) for text in pages]

        def named(kind: str, names: Any = iter) -> frozenset[str]:
            return frozenset(name for is_kind, it in items if is_kind == kind for name in names(it))

        taken: Iterator[str] = (it for kind, it in items if kind == "take")
        return cls(
            told=named("told", lambda rows: (row[0] for row in rows)),
            ready=named("ready"),
            reused=named("reuse"),
            reset=named("reset", lambda words: words[::3]),
            gone=named("gone"),
            past=named("past"),
            taken=next(taken, ""),
        )
