"""The events of a run: what an entry of its stream holds, and how it is read.

An entry has the event's name, its time, step, attempt and a detail in JSON, which the ledger's Lua
writes as it got it. What the Lua itself adds stands beside the detail, in fields of the entry
(`ADDED`), and belongs to the detail here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from orchestrator.ledger.states import RunState, StepState


class EventKind(StrEnum):
    """What an event is about, before the dot, and what has happened to it."""

    RUN_CREATED = "run.created"
    RUN_STARTED = "run.started"
    RUN_RESUMED = "run.resumed"
    RUN_CODE_CHANGED = "run.code_changed"
    RUN_SUCCEEDED = "run.succeeded"
    RUN_FAILED = "run.failed"
    RUN_CANCELLED = "run.cancelled"
    STEP_QUEUED = "step.queued"
    STEP_STARTED = "step.started"
    STEP_RETRYING = "step.retrying"
    STEP_SUCCEEDED = "step.succeeded"
    STEP_FAILED = "step.failed"
    STEP_CANCELLED = "step.cancelled"
    STEP_SKIPPED = "step.skipped"
    STEP_UPSTREAM_FAILED = "step.upstream_failed"
    STEP_REUSED = "step.reused"
    ATTEMPT_LOST = "attempt.lost"
    ATTEMPT_HANDED_OVER = "attempt.handed_over"
    ATTEMPT_PUT_BACK = "attempt.put_back"
    ATTEMPT_STOPPED = "attempt.stopped"
    MESSAGE_LOST = "message.lost"
    MESSAGE_RETURNED = "message.returned"
    COMMIT_REFUSED = "commit.refused"
    LOG_REFUSED = "log.refused"
    CLOCK_SHIFTED = "clock.shifted"
    CLOCK_PAUSED = "clock.paused"
    QUEUE_SHARED = "queue.shared"
    ALERT_SENT = "alert.sent"
    ALERT_FAILED = "alert.failed"
    UNREADABLE = (  # of it nothing but its id can be read: no part of ours wrote it as it is now
        "unreadable"
    )

    @property
    def subject(self) -> str:
        """Word before the dot: "run", "step", "attempt", …"""
        return self.partition(".")[0]

    @property
    def verb(self) -> str:
        """Word behind the dot: "started", "lost", …"""
        return self.partition(".")[2]


STEP_STATES = {
    EventKind.STEP_QUEUED: StepState.QUEUED,
    EventKind.STEP_STARTED: StepState.RUNNING,
    EventKind.STEP_RETRYING: StepState.RETRYING,
    EventKind.STEP_SUCCEEDED: StepState.SUCCEEDED,
    EventKind.STEP_REUSED: StepState.SUCCEEDED,
    EventKind.STEP_FAILED: StepState.FAILED,
    EventKind.STEP_CANCELLED: StepState.CANCELLED,
    EventKind.STEP_SKIPPED: StepState.SKIPPED,
    EventKind.STEP_UPSTREAM_FAILED: StepState.UPSTREAM_FAILED,
}
"""The state that a step is in after an event."""

RUN_ENDS = {
    EventKind.RUN_SUCCEEDED: RunState.SUCCEEDED,
    EventKind.RUN_FAILED: RunState.FAILED,
    EventKind.RUN_CANCELLED: RunState.CANCELLED,
}
RUN_STATES = {
    EventKind.RUN_CREATED: RunState.QUEUED,
    EventKind.RUN_STARTED: RunState.RUNNING,
    EventKind.RUN_RESUMED: RunState.RUNNING,
    **RUN_ENDS,
}
"""The state that a run is in after an event."""

REPLACEMENTS = frozenset(
    {EventKind.ATTEMPT_LOST, EventKind.ATTEMPT_HANDED_OVER, EventKind.ATTEMPT_PUT_BACK}
)
"""The events by which an attempt ends and its step does not."""

REPAIRS = frozenset({EventKind.ATTEMPT_LOST, EventKind.MESSAGE_LOST})
"""The events by which the safety net tells that it caught something."""


ADDED = ("lost", "budget", "due_at", "token")
_FIELDS = {"event", "at", "step", "attempt", "detail"}


@dataclass(frozen=True, slots=True)
class Event:
    """One change. `id` orders events and continues a reading; `detail` is empty where there is
    nothing to add.

    `strange` are fields of the entry that no event of ours has.
    """

    id: str
    kind: EventKind
    at_us: int
    step: str
    attempt: int
    detail: Mapping[str, Any]
    strange: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Event in words, as the beginning of a sentence: "step.failed of step 'a' at attempt 1
        (event 5-0)"."""
        if self.kind is EventKind.UNREADABLE:
            name = self.detail.get("event")
            return (
                f"{name} (event {self.id}) is not an event that a run has"
                if name
                else f"event {self.id} cannot be read"
            )
        of_step = (
            f" of step {self.step!r} at attempt {self.attempt}" if self.step or self.attempt else ""
        )
        return f"{self.kind}{of_step} (event {self.id})"


_KINDS = {kind.value: kind for kind in EventKind if kind is not EventKind.UNREADABLE}


def event_in(entry: tuple[str, Mapping[str, str]]) -> Event:
    """Return the event that one entry of the stream holds; `UNREADABLE` where somebody else wrote
    or changed it."""
    event_id, fields = entry
    try:
        kind, text = _KINDS.get(fields["event"]), fields["detail"]
        if kind is None:
            return Event(event_id, EventKind.UNREADABLE, 0, "", 0, {"event": fields["event"]})
        if kind is EventKind.STEP_STARTED:
            detail: dict[str, Any] = {"worker": text}
        else:
            detail = _mapping(json.loads(text)) if text else {}
        strange: tuple[str, ...] = ()
        if len(fields) > len(_FIELDS):
            if added := {word: int(fields[word]) for word in ADDED if word in fields}:
                detail |= added
            strange = tuple(fields.keys() - _FIELDS - set(ADDED))
            if kind is EventKind.STEP_FAILED and "lost" in fields:
                _say_why_it_is_not_tried_again(detail)
        return Event(
            event_id,
            kind,
            int(fields["at"]),
            fields["step"],
            int(fields["attempt"]),
            detail,
            strange,
        )
    except (KeyError, ValueError, TypeError, RecursionError):
        return Event(event_id, EventKind.UNREADABLE, 0, "", 0, {})


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("a detail is a mapping")
    return value


def _say_why_it_is_not_tried_again(detail: dict[str, Any]) -> None:
    lost, budget, error = detail["lost"], detail["budget"], detail.get("error")
    if error and budget > 1:
        error["message"] += f" (lost attempt {lost} of {budget}: it is not tried again)"


def event_place(event_id: str) -> tuple[int, int]:
    milliseconds, _, number = event_id.partition("-")
    return int(milliseconds), int(number)
