"""Going through the events of a run to see whether they hold what is promised of every run.

Nothing started before its upstreams allowed it, no success was committed twice, no attempt is left
without an end, the run ended as its steps say. Pure: it judges by the events, and by upstreams and
rules as the user wrote them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.ledger.details import Resumed, Willed
from orchestrator.ledger.events import (
    RUN_ENDS,
    RUN_STATES,
    Event,
    EventKind,
    event_place,
)
from orchestrator.ledger.front import Front
from orchestrator.ledger.pages import PAGE
from orchestrator.ledger.states import RunState, StepState
from orchestrator.record.replay_steps import REPLACED, StepReplay

_ENDS_OF_RUNS = set(RUN_ENDS.values())
_RUN_FOLLOWS: dict[EventKind, Collection[RunState | None]] = {
    EventKind.RUN_CREATED: {None},
    EventKind.RUN_STARTED: {RunState.QUEUED},
    EventKind.RUN_RESUMED: _ENDS_OF_RUNS,
    EventKind.RUN_CANCELLING: {RunState.QUEUED, RunState.RUNNING},
    **{kind: {RunState.QUEUED, RunState.RUNNING, RunState.CANCELLING} for kind in RUN_ENDS},
}
_OF_THE_RUN = ("run", "clock", "queue", "alert")  # subjects of events that name no step
# Events that the ledger never writes but in one call with the event before them, so at the same
# time.
_NEVER_FIRST = {
    EventKind.STEP_UPSTREAM_FAILED,
    EventKind.STEP_SKIPPED,
    EventKind.RUN_CODE_CHANGED,
    *RUN_ENDS,
}
_NO_FRONT = Front()
GRAIN_US = 10_000  # by so much a call may see the clock before or after it gets the id of its event


def replay_events(
    events: Sequence[Event],
    upstream: Mapping[str, Collection[str]],
    rules: Mapping[str, str],
    front: Front = _NO_FRONT,
    page: int = PAGE,
) -> Replay:
    """Return the replay of all events of a run. `upstream` (as the user wrote it) and `rules`
    (trigger rules) are those of now; what resumes have changed about them stands in the events.
    `front` is what is decided and has no events yet; calls that wrote them looked at `page` steps
    each."""
    resumes = [event.detail for event in events if isinstance(event.detail, Resumed)]
    members, unsure = set(upstream), set[str]()
    changes: list[
        frozenset[str]
    ] = []  # before each resume: the steps whose wiring then is not known, the last first
    for resumed in reversed(resumes):
        new = set(resumed.new)
        unsure |= new | set(resumed.rewired)
        changes.append(frozenset(unsure))
        members = (members - new) | set(resumed.gone)
    replay = Replay(upstream, rules, members, [*reversed(changes), frozenset()])
    work = 3 * len(upstream) + sum(map(len, upstream.values()))
    replay.is_in_pages = work + len(_RUN_FOLLOWS) > page
    for event in events:
        replay.take(event)
    replay.finish(front)
    return replay


@dataclass
class Replay(StepReplay):
    """The replay of a whole run, see `StepReplay`."""

    def take(self, event: Event) -> None:
        """Check the next event and take it in, right or wrong."""
        self._check_order(event)
        if event.kind is EventKind.STEP_REUSED:
            return self._take_reused(event)
        if event.kind is EventKind.RUN_CREATED:
            self._is_beginning = True
        elif event.step or event.kind in (EventKind.RUN_STARTED, EventKind.RUN_RESUMED):
            self._is_beginning = False
        if event.kind is EventKind.UNREADABLE:
            return self._wrong(event.text)
        self._check_form(event)
        subject = event.kind.subject
        if subject == "run":
            self._take_run(event)
        elif subject == "step":
            self._take_step(event)
        elif event.kind in REPLACED:
            self._take_replaced(event)
        elif subject == "message":
            if (self.state_of(event.step), self.attempts.get(event.step, 0)) != (
                StepState.QUEUED,
                event.attempt,
            ):
                self._wrong(f"{event.text}, but the step is {self._where(event.step)}")
        elif (
            event.kind is EventKind.ATTEMPT_STOPPED
            and not 1 <= event.attempt <= self.attempts.get(event.step, 0)
        ):
            self._wrong(f"{event.text}, but the step is {self._where(event.step)}")
        return None

    def finish(self, front: Front = _NO_FRONT) -> None:
        """Check what must hold when there is no further event, but what `front` stands for."""
        if self.run_state is None:
            self._wrong("the run has no event that creates it")
        if self.run_state in _ENDS_OF_RUNS:
            return
        for step, how in sorted(self._replaced.items()):
            self._wrong(
                f"attempt {self.attempts[step]} of step {step!r} {REPLACED[how][1]}, and nothing"
                " followed"
            )
        if self.run_state and all(self.state_of(step).is_ended for step in self.members):
            self._wrong(f"all steps have ended, but the run is {self.run_state}")
        if self.run_state is RunState.CANCELLING:
            return
        unheard = front.ready | front.reused | self._below(front.told)
        for step in sorted(self.members - unheard):
            if self.state_of(step) is StepState.WAITING and self._is_judged(step):
                verdict = self.verdict(step)
                if verdict is not StepState.WAITING:
                    self._wrong(f"step {step!r} waits, but {self._reason(step, verdict)}")

    def _below(self, steps: Collection[str]) -> set[str]:
        """Return all that is below steps, on any way."""
        downstream = defaultdict[str, list[str]](list)
        for step, upstream in self.upstream.items() if steps else ():
            for up in upstream:
                downstream[up].append(step)
        below, ahead = set[str](), [*steps]
        while ahead:
            found = [step for step in downstream[ahead.pop()] if step not in below]
            below.update(found)
            ahead += found
        return below

    # -- the run
    # ----------------------------------------------------------------------------------------------

    def _check_order(self, event: Event) -> None:
        last, self._last = self._last, event
        if last is None:
            if event.kind is not EventKind.RUN_CREATED:
                self._wrong(
                    f"the record begins with {event.kind} (event {event.id}), not with run.created"
                )
        elif event_place(event.id) <= event_place(last.id):
            self._wrong(
                f"event {event.id} ({event.kind}) is out of order: event {last.id} is not before it"
            )
        elif EventKind.UNREADABLE not in (event.kind, last.kind):
            self._check_time(event, last)

    def _check_time(self, event: Event, last: Event) -> None:
        """An event's time is that of the clock from which its id is, too.

        The clock may be put back. Then the milliseconds of ids stand still until it shows as much
        again, so an id that goes on says that its time is not before that of the last event.
        """
        is_decided_before = event.kind in _NEVER_FIRST or (
            event.kind is EventKind.STEP_QUEUED and self.state_of(event.step) is StepState.WAITING
        )
        is_of_one_call = (
            (is_decided_before and not self.is_in_pages)
            or event.kind is EventKind.RUN_CODE_CHANGED
            or last.kind is EventKind.RUN_STARTED
            or (last.kind in REPLACED and event.step == last.step)
        )
        shown_us, last_shown_us = (event_place(entry.id)[0] * 1000 for entry in (event, last))
        if is_of_one_call and event.at_us != last.at_us:
            self._wrong(
                f"{event.text} has another time than event {last.id}, which the same call wrote"
            )
        elif last.at_us > shown_us + GRAIN_US:
            by_s = (last.at_us - shown_us) / 1e6
            self._wrong(
                f"{last.text} has a time {by_s:g} s after the id of event {event.id}, which"
                " follows it"
            )
        elif shown_us > last_shown_us and event.at_us < last.at_us - GRAIN_US:
            by_s = (last.at_us - event.at_us) / 1e6
            self._wrong(
                f"{event.text} is {by_s:g} s earlier than event {last.id}, by a clock that was not"
                " put back"
            )

    def _check_form(self, event: Event) -> None:
        """Check what needs no knowledge of the run: that there is such an event, once, with what an
        event has."""
        if event.strange:
            self._wrong(f"{event.text} has what no event has: {', '.join(sorted(event.strange))}")
        if event.kind.subject in _OF_THE_RUN and (event.step or event.attempt):
            self._wrong(f"{event.text} is of the whole run, and may not name a step")
        key = event.kind, event.at_us, event.step, event.attempt
        if (
            first := self._seen.setdefault(key, event.id)
        ) != event.id and event.kind.subject != "alert":  # a target may stand twice
            self._wrong(f"{event.text} is there twice: it is event {first}")

    def _take_run(self, event: Event) -> None:
        if event.kind not in _RUN_FOLLOWS:
            return
        if self.run_state not in _RUN_FOLLOWS[event.kind]:
            was = "had not been created" if self.run_state is None else f"was {self.run_state}"
            self._wrong(f"{event.kind} (event {event.id}), but the run {was}")
        before, self.run_state = self.run_state, RUN_STATES[event.kind]
        if event.kind is EventKind.RUN_CREATED:
            self.times["created_at"] = event.at_us
        elif event.kind is EventKind.RUN_STARTED:
            self.is_started = True
            self.times["started_at"] = event.at_us
        elif event.kind is EventKind.RUN_RESUMED:
            self._resume(event)
        elif self.run_state in _ENDS_OF_RUNS:
            self._end(event, before)

    def _end(self, event: Event, before: RunState | None) -> None:
        """Every step has ended, every attempt that began too, and the run ended as they say."""
        self.times["ended_at"] = event.at_us
        counts = Counter(self.state_of(step) for step in self.members)
        for step, attempt in self._open.items():
            self._wrong(
                f"{event.kind} (event {event.id}), but attempt {attempt} of step {step!r} has"
                " no end"
            )
        for step in sorted(self.members - self._open.keys()):
            if not self.state_of(step).is_ended:
                self._wrong(
                    f"{event.kind} (event {event.id}), but step {step!r} is {self.state_of(step)}"
                )
        failed, cancelled = counts[StepState.FAILED], counts[StepState.CANCELLED]
        follows = (
            RunState.FAILED if failed else RunState.CANCELLED if cancelled else RunState.SUCCEEDED
        )
        # Who cancels a run, or ends it at its deadline, decides how it ends and says why.
        is_willed = isinstance(event.detail, Willed) and event.detail.reason is not None
        if (self.run_state is not follows or before is RunState.CANCELLING) and not is_willed:
            self._wrong(
                f"{event.kind} (event {event.id}), but with {failed} failed and {cancelled}"
                f" cancelled steps the run is {follows}"
            )

    def _resume(self, event: Event) -> None:
        if not self.is_started:
            self.run_state = RunState.QUEUED
        self.resumes += 1
        self.unsure.pop(0)
        resumed = event.detail
        assert isinstance(resumed, Resumed)
        again = set(resumed.again)
        for step in sorted(again):
            if self.state_of(step) is not StepState.SUCCEEDED:
                self._wrong(
                    f"step {step!r} runs again (event {event.id}), but it had not succeeded: it was"
                    f" {self.state_of(step)}"
                )
        gone = set(resumed.gone)
        self.members = (self.members - gone) | set(resumed.new)
        resets = [
            step
            for step in self.members
            if step in again or self.state_of(step) is not StepState.SUCCEEDED
        ]
        if resumed.reset != len(resets):
            self._wrong(
                f"run.resumed (event {event.id}) reports {resumed.reset} steps that wait anew, but"
                f" {len(resets)} must"
            )
        self._check_kept(event, resumed, set(resets))
        for step in (*resets, *gone):
            for known in (self.states, self.reused, self._causes):
                known.pop(step, None)
            self.since[step] = event.at_us
        self.times.pop("ended_at", None)
        self._open.clear()
        self._replaced.clear()

    def _check_kept(self, event: Event, resumed: Resumed, resets: set[str]) -> None:
        """No step is kept of which an upstream waits anew: what it was decided by is open again.

        One that has other upstreams since this resume was not decided by those.
        """
        set_back = resets - set(resumed.new)
        rewired = set(resumed.rewired)
        for step in sorted(self.members - resets - rewired):
            if self._is_judged(step) and (opened := set_back.intersection(self.upstream[step])):
                self._wrong(
                    f"step {step!r} is kept (event {event.id}), but its upstream {min(opened)!r}"
                    " waits anew, so it must be judged anew"
                )
