"""The events by which a step came to where it is, found without reading those of other steps.

The state of a step says since when it is in it, and the token of an attempt when that began; ids of
events are milliseconds of the same clock. All events of one call bear one time, so the first of
them tells what the call was about. Where the clock was put back nothing is found by time: then the
events are looked through, newest first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from orchestrator.ledger.details import Ended
from orchestrator.ledger.events import QUEUE_TIMEOUT, STEP_STATES, Event, EventKind, event_in
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.parsing import StepStanding
from orchestrator.ledger.states import StepState

_CHANGES = {state: kind for kind, state in STEP_STATES.items() if kind is not EventKind.STEP_REUSED}
_BEGINNINGS = (EventKind.STEP_QUEUED, EventKind.STEP_STARTED)
_DECIDED = (StepState.UPSTREAM_FAILED, StepState.SKIPPED)
_UNRECORDED_AT = 0  # when an attempt was queued whose event is not looked for


@dataclass(frozen=True)
class LastEvents:
    """The last events of single steps of a run, whose `fields` are given."""

    ledger: Ledger
    run_id: str
    fields: Mapping[str, str]

    def of(self, step: str, standing: StepStanding, *, with_earlier: bool) -> list[Event]:
        """Return the events that say how a step came into its state, and how its last attempt ended
        if that made it so; `with_earlier`, how each attempt ended.

        Events of the run are among them. Where the queueing of an attempt is left out, an event of
        time 0 stands for it.
        """
        change = self._change(step, standing)
        if change is None:
            return _with_queueing(self._back(step))
        if with_earlier and standing.attempt:
            is_cancelled = standing.state is StepState.CANCELLED
            if is_cancelled or (standing.state.is_ended and standing.attempt > 1):
                change = [*self._back(step, change[0].id), *change]
            if is_cancelled:
                change += self._stopped_since(step, standing)
        return _with_queueing(change)

    def _change(self, step: str, standing: StepStanding) -> list[Event] | None:
        """Return the events of the call that brought a step into its state, None if they are not
        found. The first one has the id of an event of that call."""
        state, at_us = standing.state, standing.at_us
        if state is StepState.QUEUED:
            return [Event("0", EventKind.STEP_QUEUED, at_us, step, standing.attempt, {})]
        if state is StepState.CANCELLED and (reason := self._reason_of_all(at_us)):
            said, head = {"reason": reason}, self._head_of_call(at_us)
            return [_told(head[0], step, standing, said)] if head else None
        if state in _DECIDED:
            head = self._head_of_call(at_us)
            if cause := _cause(state, head):
                return [_told(head[0], step, standing, {"because": cause})]
        found = self._in_call(step, at_us, _CHANGES[state])
        if not found or state is not StepState.SUCCEEDED or standing.attempt > 1:
            return found
        if not standing.token:
            return found  # it never began
        began_us = int(self.fields["created_at"]) + standing.token
        began = self._in_call(step, began_us, EventKind.STEP_STARTED)
        return began and [*began, *found]

    def _reason_of_all(self, at_us: int) -> str | None:
        """Return why the run as a whole was ended at that time; None if it was not."""
        is_then = self.fields.get("ended_at") == str(at_us)
        return self.fields.get("cancel_reason") if is_then else None

    def _in_call(self, step: str, at_us: int, kind: EventKind) -> list[Event] | None:
        """Return a step's events of the call at that time, the last one being of that kind; None if
        there is none of it."""
        found = []
        for entry in self.ledger.entries_at(self.run_id, at_us):
            if entry[1].get("step") == step and entry[1].get("at") == str(at_us):
                found.append(event_in(entry))
                if found[-1].kind is kind:
                    return found
        return None

    def _head_of_call(self, at_us: int) -> list[Event]:
        """Return the first two events of the call at that time."""
        entries = self.ledger.entries_at(self.run_id, at_us)
        of_call = (entry for entry in entries if entry[1].get("at") == str(at_us))
        return list(map(event_in, islice(of_call, 2)))

    def _back(self, step: str, before: str = "") -> list[Event]:
        """Return the events of a step, and of the run, since the step's first attempt began, up to
        the event of the id `before`."""
        found = []
        for entry in self.ledger.entries_back(self.run_id, before):
            if entry[1].get("step") not in (step, ""):
                continue
            event = event_in(entry)
            found.append(event)
            if event.step == step and event.attempt == 1 and event.kind in _BEGINNINGS:
                break
        return found[::-1]

    def _stopped_since(self, step: str, standing: StepStanding) -> list[Event]:
        """Return the event that says how the attempt of a step went that was stopped because the
        step was cancelled; none if none says so yet."""
        if self.ledger.due_at(self.run_id, step) is not None:
            return []  # it is still being stopped
        for entry in self.ledger.entries_back(self.run_id):
            if entry[1].get("at") == str(standing.at_us):
                break
            if entry[1].get("step") == step:
                event = event_in(entry)
                if event.kind is EventKind.ATTEMPT_STOPPED and event.attempt == standing.attempt:
                    return [event]
        return []


def _told(head: Event, step: str, standing: StepStanding, said: Mapping[str, str]) -> Event:
    """Return the event of a step's change as the call has written it that began with `head`."""
    kind = _CHANGES[standing.state]
    return Event(head.id, kind, standing.at_us, step, standing.attempt, said)


def _cause(state: StepState, head: Sequence[Event]) -> str:
    """Return the step whose end has decided all others of a call, by the first events of the call;
    "" where those do not tell."""
    if not head:
        return ""
    first, kinds = head[0], [event.kind for event in head]
    if state is StepState.SKIPPED:
        return first.step if first.kind is EventKind.STEP_SUCCEEDED else ""
    if kinds[0] is EventKind.STEP_CANCELLED and kinds[1:] != [EventKind.STEP_CANCELLED]:
        return first.step
    if isinstance(first.detail, Ended) and kinds[0] is EventKind.STEP_FAILED:
        error = first.detail.error
        # steps that have waited too long for a worker may fail together
        return "" if error and error.type == QUEUE_TIMEOUT else first.step
    return ""


def _with_queueing(events: list[Event]) -> list[Event]:
    """Return the events with one before them that says that the first attempt was queued, if none
    does."""
    first = next((event for event in events if event.step and event.attempt), None)
    if first is None or first.kind is EventKind.STEP_QUEUED:
        return events
    if STEP_STATES.get(first.kind) in _DECIDED:
        return events
    queued = Event("0", EventKind.STEP_QUEUED, _UNRECORDED_AT, first.step, first.attempt, {})
    return [queued, *events]
