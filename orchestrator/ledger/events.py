"""The events of a run: what an entry of its stream holds, and how it is read.

An entry has the event's name, its time, step, attempt and a detail in JSON, which the ledger's Lua writes as it got it.
What the Lua itself adds stands beside the detail, in fields of the entry (`ADDED`), and belongs to the detail here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

UNREADABLE = "unreadable"
"""The name of an event of which nothing but its id can be read: no part of ours wrote it as it is now."""

ADDED = ("lost", "budget", "due_at", "token")
_FIELDS = {"event", "at", "step", "attempt", "detail"}


@dataclass(frozen=True, slots=True)
class Event:
    """One change. `id` orders events and continues a reading; `detail` is parsed JSON or plain text.

    `strange` are fields of the entry that no event of ours has.
    """

    id: str
    event: str
    at_us: int
    step: str
    attempt: int
    detail: Any
    strange: tuple[str, ...] = ()


def event_in(entry: tuple[str, Mapping[str, str]]) -> Event:
    """Return the event that one entry of the stream holds; `UNREADABLE` where somebody else wrote or changed it."""
    event_id, fields = entry
    try:
        name, text = fields["event"], fields["detail"]
        detail: Any = json.loads(text) if text.startswith("{") else text
        strange: tuple[str, ...] = ()
        if len(fields) > len(_FIELDS):
            if added := {word: int(fields[word]) for word in ADDED if word in fields}:
                detail = {**detail, **added}
            strange = tuple(fields.keys() - _FIELDS - set(ADDED))
            if name == "step.failed" and "lost" in fields:
                _say_why_it_is_not_tried_again(detail)
        return Event(event_id, name, int(fields["at"]), fields["step"], int(fields["attempt"]), detail, strange)
    except (KeyError, ValueError, TypeError, RecursionError):
        return Event(event_id, UNREADABLE, 0, "", 0, "")


def _say_why_it_is_not_tried_again(detail: dict[str, Any]) -> None:
    lost, budget, error = detail["lost"], detail["budget"], detail.get("error")
    if error and budget > 1:
        error["message"] += f" (lost attempt {lost} of {budget}: it is not tried again)"
