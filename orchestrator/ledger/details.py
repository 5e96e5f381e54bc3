"""What an event says beside its name, time, step and attempt: a frozen value for each kind.

What a value does not know of the JSON it leaves out, and what the JSON does not say has its
default: versions of one format may differ in that. A part of another type than is written here
makes the event unreadable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, Self, cast

from orchestrator.error_card import ErrorCard


@dataclass(frozen=True, slots=True)
class Detail:
    """An event that says no more than its name does: run.created, run.started, step.queued."""

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """Raise TypeError for a part of another type."""
        known, kind = {}, cast(Any, cls)
        for name, types in _types_of(kind).items():
            if name in raw and raw[name] is not None:
                known[name] = _read(raw[name], types, name)
        return cls(**known)

    def to_json(self) -> dict[str, Any]:
        """Return what differs from the defaults."""
        said: dict[str, Any] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, ErrorCard):
                said[each.name] = value.to_json()
            elif value not in (None, "", (), {}) and value is not False:
                said[each.name] = list(value) if isinstance(value, tuple) else value
        return said


@dataclass(frozen=True, slots=True)
class Resumed(Detail):
    """run.resumed. Steps: `again` had succeeded and run again, `new` and `gone` are those that the
    plan has more and less, `rewired` have other upstreams; `reset` is how many wait anew. `params`
    are those that changed, as JSON."""

    again: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    rewired: tuple[str, ...] = ()
    reset: int | None = None
    code_changed: tuple[str, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    clock_step: int = 0


@dataclass(frozen=True, slots=True)
class CodeChanged(Detail):
    """run.code_changed: the files that differ from those of before."""

    changed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Willed(Detail):
    """run.failed, run.cancelled, step.cancelled: why, where somebody or a deadline decided it."""

    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Started(Detail):
    """step.started."""

    worker: str = ""


@dataclass(frozen=True, slots=True)
class Decided(Detail):
    """step.skipped, step.upstream_failed: the step whose end has decided it."""

    because: str | None = None


@dataclass(frozen=True, slots=True)
class TakenOver(Detail):
    """step.reused: the attempt of another run whose success the step has taken over."""

    run: str = ""
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Ended(Detail):
    """step.succeeded, step.failed, step.retrying: how the attempt ended. `due_at` (µs) is of the
    next one; `lost` of `budget` attempts are lost, where that is why. `code` says which files it
    ran."""

    outcome: str | None = None
    error: ErrorCard | None = None
    code: Mapping[str, Any] | None = None
    due_at: int | None = None
    lost: int = 0
    budget: int = 0
    reason: str | None = None
    host: str = ""
    found: str = ""


@dataclass(frozen=True, slots=True)
class Lost(Detail):
    """attempt.lost: the attempt is over without an end of its own. `found` says who noticed."""

    outcome: str | None = None
    error: ErrorCard | None = None
    found: str = ""
    lost: int = 0
    budget: int = 0


@dataclass(frozen=True, slots=True)
class HandedOver(Detail):
    """attempt.handed_over: its step or its worker gave it up, for another one to go on."""

    outcome: str | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class PutBack(Detail):
    """attempt.put_back: its host had a fault, or other code; due again at `due_at` (µs)."""

    outcome: str | None = None
    reason: str = ""
    host: str = ""
    worker: str = ""
    due_at: int | None = None


@dataclass(frozen=True, slots=True)
class Stopped(Detail):
    """attempt.stopped: its process is gone with all that it had started, `after_s` seconds."""

    reason: str = ""
    how: str = ""
    after_s: float | None = None
    processes: int | None = None
    worker: str = ""


@dataclass(frozen=True, slots=True)
class Unsent(Detail):
    """message.lost, message.returned: the message of a queued step was sent again."""

    found: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Refused(Detail):
    """commit.refused, log.refused: somebody whose attempt no longer counts had something to say."""

    outcome: str = ""
    state: str = ""
    token: int = 0


@dataclass(frozen=True, slots=True)
class Shifted(Detail):
    """clock.shifted: the server's clock was put forward by `by_s` seconds, back if negative."""

    by_s: float = 0.0
    step: int = 0


@dataclass(frozen=True, slots=True)
class Paused(Detail):
    """clock.paused: the server was away for so long."""

    for_s: float = 0.0


@dataclass(frozen=True, slots=True)
class SharedQueue(Detail):
    """queue.shared: who else reads a queue of the run's steps."""

    queue: str = ""
    reader: str = ""


@dataclass(frozen=True, slots=True)
class Alerted(Detail):
    """alert.sent, alert.failed: what came of the try to reach a target."""

    target: str = ""
    error: str = ""
    retry_in_s: float | None = None
    given_up: bool = False


_TYPES: Mapping[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "tuple[str, ...]": (list, tuple),
    "Mapping[str, Any]": (dict,),
    "ErrorCard": (dict,),
}


@cache
def _types_of(kind: Any) -> Mapping[str, tuple[type, ...]]:
    return {field.name: _TYPES[str(field.type).removesuffix(" | None")] for field in fields(kind)}


def _read(value: Any, types: tuple[type, ...], name: str) -> Any:
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise TypeError(f"{name} is a {type(value).__name__}")
    if name == "error" and isinstance(value, dict):
        return ErrorCard.from_json(value)
    if isinstance(value, list | tuple):
        if not all(isinstance(item, str) for item in value):
            raise TypeError(f"{name} has other things than texts")
        return tuple(value)
    return value
