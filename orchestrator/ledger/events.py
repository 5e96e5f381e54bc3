"""The events of a run: what an entry of its stream holds, and how it is read.

An entry has the event's name, its time, step, attempt and a detail in JSON, which the ledger's Lua
writes as it got it. What the Lua itself adds stands beside the detail, in fields of the entry
(`ADDED`), and belongs to the detail here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Any

from orchestrator.error_card import ErrorCard
from orchestrator.ledger.details import (
    Alerted,
    CodeChanged,
    Decided,
    Detail,
    Ended,
    HandedOver,
    Lost,
    Paused,
    PutBack,
    Refused,
    Resumed,
    SharedQueue,
    Shifted,
    Started,
    Stopped,
    TakenOver,
    Unsent,
    Willed,
)
from orchestrator.ledger.entries import parsed_json
from orchestrator.ledger.states import RunState, StepState


class EventKind(StrEnum):
    """What an event is about, before the dot, and what has happened to it."""

    RUN_CREATED = "run.created"
    RUN_STARTED = "run.started"
    RUN_RESUMED = "run.resumed"
    RUN_CODE_CHANGED = "run.code_changed"
    RUN_CANCELLING = "run.cancelling"
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
    EventKind.RUN_CANCELLING: RunState.CANCELLING,
    **RUN_ENDS,
}
"""The state that a run is in after an event."""

REPLACEMENTS = frozenset(
    {EventKind.ATTEMPT_LOST, EventKind.ATTEMPT_HANDED_OVER, EventKind.ATTEMPT_PUT_BACK}
)
"""The events by which an attempt ends and its step does not."""

REPAIRS = frozenset({EventKind.ATTEMPT_LOST, EventKind.MESSAGE_LOST})
"""The events that say that the safety net caught something."""


DETAILS: Mapping[EventKind, type[Detail]] = {
    EventKind.RUN_CREATED: Detail,
    EventKind.RUN_STARTED: Detail,
    EventKind.RUN_RESUMED: Resumed,
    EventKind.RUN_CODE_CHANGED: CodeChanged,
    EventKind.RUN_SUCCEEDED: Detail,
    EventKind.RUN_FAILED: Willed,
    EventKind.RUN_CANCELLED: Willed,
    EventKind.RUN_CANCELLING: Willed,
    EventKind.STEP_QUEUED: Detail,
    EventKind.STEP_STARTED: Started,
    EventKind.STEP_RETRYING: Ended,
    EventKind.STEP_SUCCEEDED: Ended,
    EventKind.STEP_FAILED: Ended,
    EventKind.STEP_CANCELLED: Willed,
    EventKind.STEP_SKIPPED: Decided,
    EventKind.STEP_UPSTREAM_FAILED: Decided,
    EventKind.STEP_REUSED: TakenOver,
    EventKind.ATTEMPT_LOST: Lost,
    EventKind.ATTEMPT_HANDED_OVER: HandedOver,
    EventKind.ATTEMPT_PUT_BACK: PutBack,
    EventKind.ATTEMPT_STOPPED: Stopped,
    EventKind.MESSAGE_LOST: Unsent,
    EventKind.MESSAGE_RETURNED: Unsent,
    EventKind.COMMIT_REFUSED: Refused,
    EventKind.LOG_REFUSED: Refused,
    EventKind.CLOCK_SHIFTED: Shifted,
    EventKind.CLOCK_PAUSED: Paused,
    EventKind.QUEUE_SHARED: SharedQueue,
    EventKind.ALERT_SENT: Alerted,
    EventKind.ALERT_FAILED: Alerted,
}
"""What each event says beside its name."""

QUEUE_TIMEOUT = "QueueTimeout"
"""The type of the error of a step that has waited too long for a worker."""

ADDED = ("lost", "budget", "due_at", "token")
_OF_TIMEOUTS = ("waited_s", "queue")
_FIELDS = {"event", "at", "step", "attempt", "detail"}


_UNREAD = Detail()


@dataclass(frozen=True, slots=True)
class Event:
    """One change. `id` orders events and continues a reading. `fields` is what is said beside the
    name as it was written, for people and readers of JSON; `detail` is the value of its kind.

    `strange` are fields of the entry that no event of ours has.
    """

    id: str
    kind: EventKind
    at_us: int
    step: str
    attempt: int
    fields: Mapping[str, Any]
    strange: tuple[str, ...] = ()
    detail: Detail = field(default=_UNREAD, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Read the detail from the fields, if it is not given. Raise TypeError for fields of other
        types than it has."""
        if self.detail is _UNREAD:
            kind = DETAILS.get(self.kind, Detail)
            object.__setattr__(self, "detail", kind.from_json(self.fields))

    @property
    def text(self) -> str:
        """Event in words, as the beginning of a sentence: "step.failed of step 'a' at attempt 1
        (event 5-0)"."""
        if self.kind is EventKind.UNREADABLE:
            name = self.fields.get("event")
            return (
                f"{name} (event {self.id}) is not an event that a run has"
                if name
                else f"event {self.id} cannot be read"
            )
        of_step = (
            f" of step {self.step!r} at attempt {self.attempt}" if self.step or self.attempt else ""
        )
        return f"{self.kind}{of_step} (event {self.id})"


OFTEN_CHARS = 200
"""Longer details, which have errors in them, hardly ever come twice."""

_time = lru_cache(maxsize=1)(int)  # one number for all events of a call
_KINDS = {kind.value: kind for kind in EventKind if kind is not EventKind.UNREADABLE}


def event_in(entry: tuple[str, Mapping[str, str]]) -> Event:
    """Return the event that one entry of the stream holds; `UNREADABLE` where somebody else wrote
    or changed it."""
    event_id, raw = entry
    try:
        kind = _KINDS.get(raw["event"])
        if kind is None:
            return Event(event_id, EventKind.UNREADABLE, 0, "", 0, {"event": raw["event"]})
        at_us, text = _time(raw["at"]), raw["detail"]
        if len(raw) == len(_FIELDS) and len(text) <= OFTEN_CHARS:
            fields, detail = _said_often(kind, text)
            return Event(
                event_id, kind, at_us, raw["step"], int(raw["attempt"]), fields, detail=detail
            )
        said = _said(kind, text)
        strange: tuple[str, ...] = ()
        if len(raw) > len(_FIELDS):
            said |= {word: int(raw[word]) for word in ADDED if word in raw}
            strange = tuple(raw.keys() - _FIELDS - {*ADDED, *_OF_TIMEOUTS})
            if kind is EventKind.STEP_FAILED:
                _add_reason(said, raw)
        return Event(event_id, kind, at_us, raw["step"], int(raw["attempt"]), said, strange)
    except (KeyError, ValueError, TypeError, RecursionError):
        return Event(event_id, EventKind.UNREADABLE, 0, "", 0, {})


@lru_cache(maxsize=1024)
def _said_often(kind: EventKind, text: str) -> tuple[Mapping[str, Any], Detail]:
    """Return what an event says, as JSON and as a value, that many others say too."""
    said = _said(kind, text)
    return said, DETAILS[kind].from_json(said)


def _said(kind: EventKind, text: str) -> dict[str, Any]:
    if kind is EventKind.STEP_STARTED:
        return {"worker": text}
    said = parsed_json(text) if text else {}
    if not isinstance(said, dict):
        raise TypeError("a detail is a mapping")
    return said


def _add_reason(said: dict[str, Any], raw: Mapping[str, str]) -> None:
    """Say why a step failed that has no error of its own, or none that says all of it."""
    if "waited_s" in raw:
        said["error"] = ErrorCard(
            QUEUE_TIMEOUT,
            f"it waited {float(raw['waited_s']):g} s for a worker of queue {raw['queue']},"
            " which is as long as it may",
        ).to_json()
    elif "lost" in raw and "error" in said and said["budget"] > 1:
        remark = f"lost attempt {said['lost']} of {said['budget']}: it is not tried again"
        said["error"] = ErrorCard.from_json(said["error"]).with_remark(remark).to_json()


def event_place(event_id: str) -> tuple[int, int]:
    milliseconds, _, number = event_id.partition("-")
    return int(milliseconds), int(number)
