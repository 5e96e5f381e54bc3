"""How a step is written in a run: its entry in the graph, which the Lua reads, and its spec, which
workers read.

Only here, in `lua/` and in the table of keys (`lua/keys.lua`) stand the letters of an entry and the
keys of a spec.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pydantic_core import from_json

FORMAT = 2
"""Version of what is written of a run (its field `v`). A reader refuses a higher one than it
knows."""

PRIORITY_LEVELS = (0, 3, 6, 9)
"""Lists of the broker for each queue, least urgent first (kombu 5.7, `Channel.priority_steps`)."""

ALL_SUCCESS = "all_success"
LOST_ATTEMPTS = 3

_NO_ARGUMENTS: Mapping[str, Any] = {}


def priority_level(priority: int) -> int:
    """Return the level whose list takes messages of a priority (kombu 5.7,
    `Channel.priority_steps`)."""
    return max(level for level in PRIORITY_LEVELS if level <= priority)


@dataclass(frozen=True, slots=True)
class StepEntry:
    """A step in the graph of its run. `place` is that in the user's order; times of 0 stand for no
    limit."""

    place: int
    queue: str
    priority: int
    upstream_count: int = 0
    next_step: str = ""  # of its chain
    trigger: str = ALL_SUCCESS
    timeout_s: float = 0
    queue_timeout_s: float = 0
    lost_attempts: int = LOST_ATTEMPTS
    reads_params: bool = False

    @property
    def level(self) -> int:
        """Level of the broker's list in which the step's messages lie."""
        return priority_level(self.priority)

    def to_json(self) -> str:
        """Return the entry as the Lua reads it, without the fields that have their usual value."""
        entry: dict[str, Any] = {"x": self.place, "q": self.queue, "p": self.priority}
        if self.level:
            entry["s"] = self.level
        if self.upstream_count:
            entry["u"] = self.upstream_count
        if self.next_step:
            entry["n"] = self.next_step
        if self.trigger != ALL_SUCCESS:
            entry["t"] = self.trigger
        if self.timeout_s:
            entry["l"] = self.timeout_s
        if self.queue_timeout_s:
            entry["w"] = self.queue_timeout_s
        if self.lost_attempts != LOST_ATTEMPTS:
            entry["b"] = self.lost_attempts
        if self.reads_params:
            entry["m"] = 1
        return json_text(entry)

    @classmethod
    def from_json(cls, text: str) -> StepEntry:
        entry = parsed_json(text)
        return cls(
            entry["x"],
            entry["q"],
            entry["p"],
            entry.get("u", 0),
            entry.get("n", ""),
            entry.get("t", ALL_SUCCESS),
            entry.get("l", 0),
            entry.get("w", 0),
            entry.get("b", LOST_ATTEMPTS),
            bool(entry.get("m")),
        )


class CallKind(StrEnum):
    """What a step does when its turn has come."""

    FUNCTION = "function"
    SHELL = "shell"


@dataclass(frozen=True, slots=True)
class StepSpec:
    """What a step runs, with what, and by which options. Arguments and command are in the wire
    form.

    `options` are those that differ from the defaults, without pool, priority and trigger.
    """

    pool: str
    kind: CallKind = CallKind.FUNCTION
    uses: str = ""
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    command: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)
    upstream: Sequence[str] = ()

    @property
    def module(self) -> str:
        """Module of the function; empty for a command."""
        return self.uses.partition(":")[0]

    def to_json(self) -> str:
        spec: dict[str, Any] = {"pool": self.pool}
        if self.kind is CallKind.SHELL:
            spec["run"] = self.command
        else:
            spec["uses"] = self.uses
            if self.args:
                spec["args"] = list(self.args)
            if self.kwargs:
                spec["with"] = dict(self.kwargs)
        if self.options:
            spec["options"] = dict(self.options)
        if self.upstream:
            spec["upstream"] = list(self.upstream)
        return json_text(spec)

    @classmethod
    def from_json(cls, text: str) -> StepSpec:
        spec = parsed_json(text)
        return cls(
            spec["pool"],
            CallKind.SHELL if "run" in spec else CallKind.FUNCTION,
            spec.get("uses", ""),
            spec.get("args", []),
            spec.get("with", _NO_ARGUMENTS),
            spec.get("run"),
            spec.get("options", _NO_ARGUMENTS),
            spec.get("upstream", ()),
        )


class StepSpecs(Mapping[str, StepSpec]):
    """The specs of a run's steps, each parsed when it is asked for: of many steps the texts take a
    fifth of the memory of what they say."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = texts

    def __getitem__(self, step: str) -> StepSpec:
        return StepSpec.from_json(self._texts[step])

    def __contains__(self, step: object) -> bool:
        return step in self._texts

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)


def parsed_json(text: str) -> Any:
    """Return the value of JSON that the ledger keeps, as `json.loads` does, in a third of its
    time. Raises ValueError."""
    try:
        return from_json(text)
    except (TypeError, ValueError):  # half of a surrogate pair, as in a name that is not UTF-8
        return json.loads(text)


def json_text(value: Any) -> str:
    """Return JSON as the ledger keeps it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
