"""Going through the events of a run to see whether they hold what is promised of every run.

Nothing started before its upstreams allowed it, no success was committed twice, no attempt is left
without an end, the run ended as its steps say. Pure: it judges by the events, and by upstreams and
rules as the user wrote them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from orchestrator.ledger.details import Decided, Ended, Resumed, TakenOver, Willed
from orchestrator.ledger.events import (
    RUN_ENDS,
    RUN_STATES,
    STEP_STATES,
    Event,
    EventKind,
    event_place,
)
from orchestrator.ledger.states import STEP_TRANSITIONS, Outcome, RunState, StepState
from orchestrator.ledger.values import Reused
from orchestrator.wording import and_more

_STEP_STATES: dict[EventKind, StepState] = {
    kind: state for kind, state in STEP_STATES.items() if kind is not EventKind.STEP_REUSED
}
_ENDS_OF_RUNS = set(RUN_ENDS.values())
_RUN_FOLLOWS: dict[EventKind, Collection[RunState | None]] = {
    EventKind.RUN_CREATED: {None},
    EventKind.RUN_STARTED: {RunState.QUEUED},
    EventKind.RUN_RESUMED: _ENDS_OF_RUNS,
    **{kind: {RunState.QUEUED, RunState.RUNNING} for kind in RUN_ENDS},
}
_WITHOUT_ATTEMPT = {StepState.UPSTREAM_FAILED, StepState.SKIPPED}
_BAD = {StepState.FAILED, StepState.UPSTREAM_FAILED, StepState.CANCELLED}
_REPLACED = {  # event -> the state that its step gets next, and how people are told
    EventKind.ATTEMPT_LOST: (StepState.QUEUED, "was lost or handed over"),
    EventKind.ATTEMPT_HANDED_OVER: (StepState.QUEUED, "was lost or handed over"),
    EventKind.ATTEMPT_PUT_BACK: (StepState.RETRYING, "was put back"),
}
_OUTCOMES = {  # event that ends an attempt which had begun -> the outcomes that it may have
    EventKind.STEP_SUCCEEDED: {Outcome.SUCCEEDED},
    EventKind.STEP_FAILED: {Outcome.FAILED, Outcome.TIMED_OUT, Outcome.LOST},
    EventKind.STEP_RETRYING: {Outcome.FAILED, Outcome.TIMED_OUT, Outcome.LOST},
    EventKind.ATTEMPT_LOST: {Outcome.LOST},
    EventKind.ATTEMPT_HANDED_OVER: {Outcome.HANDED_OVER},
    EventKind.ATTEMPT_PUT_BACK: {Outcome.PUT_BACK},
}
_NAMED = 3  # upstreams that a sentence names
_OF_THE_RUN = ("run", "clock", "queue", "alert")  # subjects of events that name no step
# Events that the ledger never writes but in one call with the event before them, so at the same
# time.
_NEVER_FIRST = {
    EventKind.STEP_UPSTREAM_FAILED,
    EventKind.STEP_SKIPPED,
    EventKind.RUN_CODE_CHANGED,
    *RUN_ENDS,
}
GRAIN_US = 10_000  # by so much a call may see the clock before or after it gets the id of its event


def replay_events(
    events: Sequence[Event], upstream: Mapping[str, Collection[str]], rules: Mapping[str, str]
) -> Replay:
    """Return the replay of all events of a run. `upstream` (as the user wrote it) and `rules`
    (trigger rules) are those of now; what resumes have changed about them stands in the events."""
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
    for event in events:
        replay.take(event)
    replay.finish()
    return replay


@dataclass
class Replay:
    """The states that events lead to, and all that is wrong on the way.

    `members` are the steps of the run at the moment. `unsure` has, for the time up to each resume,
    the steps whose upstreams or rule were others then: whether they might start is not judged.
    """

    upstream: Mapping[str, Collection[str]]
    rules: Mapping[str, str]
    members: set[str]
    unsure: list[frozenset[str]]
    states: dict[str, StepState] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)
    run_state: RunState | None = None
    is_started: bool = False
    resumes: int = 0
    attempts_begun: int = 0
    begun: dict[str, int] = field(default_factory=dict)  # step -> its last attempt that began
    violations: list[str] = field(default_factory=list)
    # step -> its attempt that has begun and has no end yet
    _open: dict[str, int] = field(default_factory=dict)
    # step -> the event that ended its attempt; one must follow
    _replaced: dict[str, EventKind] = field(default_factory=dict)
    # steps whose success is that of another run's attempt
    reused: dict[str, Reused] = field(default_factory=dict)
    since: dict[str, int] = field(default_factory=dict)  # step -> when it got into its state
    begun_at: dict[str, int] = field(default_factory=dict)  # step -> when its last attempt began
    # created_at, started_at and ended_at of the run
    times: dict[str, int] = field(default_factory=dict)
    # step that ended without an attempt -> which one decided it
    _causes: dict[str, str] = field(default_factory=dict)
    # event, time, step, attempt -> its id
    _seen: dict[tuple[str, int, str, int], str] = field(default_factory=dict)
    _is_beginning: bool = False  # nothing has happened yet but that steps were taken over
    _last: Event | None = None

    def state_of(self, step: str) -> StepState:
        return self.states.get(step, StepState.WAITING)

    def take(self, event: Event) -> None:
        """Check the next event and take it in, right or wrong."""
        self._check_order(event)
        if event.kind is EventKind.STEP_REUSED:
            return self._take_reused(event)
        self._is_beginning = event.kind is EventKind.RUN_CREATED
        if event.kind is EventKind.UNREADABLE:
            return self._wrong(event.text)
        self._check_form(event)
        subject = event.kind.subject
        if subject == "run":
            self._take_run(event)
        elif subject == "step":
            self._take_step(event)
        elif event.kind in _REPLACED:
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

    def finish(self) -> None:
        """Check what must hold when there is no further event."""
        if self.run_state is None:
            self._wrong("the run has no event that creates it")
        if self.run_state in _ENDS_OF_RUNS:
            return
        for step, how in sorted(self._replaced.items()):
            self._wrong(
                f"attempt {self.attempts[step]} of step {step!r} {_REPLACED[how][1]}, and nothing"
                " followed"
            )
        if self.run_state and all(self.state_of(step).is_ended for step in self.members):
            self._wrong(f"all steps have ended, but the run is {self.run_state}")
        for step in sorted(self.members):
            if self.state_of(step) is StepState.WAITING and self._is_judged(step):
                verdict = self.verdict(step)
                if verdict is not StepState.WAITING:
                    self._wrong(f"step {step!r} waits, but {self._reason(step, verdict)}")

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
        is_of_one_call = (
            event.kind in _NEVER_FIRST
            or last.kind is EventKind.RUN_STARTED
            or (last.kind in _REPLACED and event.step == last.step)
            or (
                event.kind is EventKind.STEP_QUEUED
                and self.state_of(event.step) is StepState.WAITING
            )
        )
        shown_us, last_shown_us = (event_place(it.id)[0] * 1000 for it in (event, last))
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
        self.run_state = RUN_STATES[event.kind]
        if event.kind is EventKind.RUN_CREATED:
            self.times["created_at"] = event.at_us
        elif event.kind is EventKind.RUN_STARTED:
            self.is_started = True
            self.times["started_at"] = event.at_us
        elif event.kind is EventKind.RUN_RESUMED:
            self._resume(event)
        elif self.run_state in _ENDS_OF_RUNS:
            self._end(event)

    def _end(self, event: Event) -> None:
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
        if self.run_state is not follows and not is_willed:
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
                f"run.resumed (event {event.id}) tells of {resumed.reset} steps that wait anew, but"
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

    # -- steps
    # ----------------------------------------------------------------------------------------------

    def _take_step(self, event: Event) -> None:
        step, state = event.step, STEP_STATES[event.kind]
        before, attempt = self.state_of(step), self.attempts.get(step, 0)
        expected = attempt + 1 if state is StepState.QUEUED else attempt
        self._check_run_goes_on(event, state)
        if state not in STEP_TRANSITIONS[before]:
            if before is state is StepState.SUCCEEDED:
                self._wrong(f"step {step!r} has a second committed success (event {event.id})")
            else:
                self._wrong(f"{event.text}, but the step was {self._where(step)}")
        elif event.attempt != expected:
            number = f"the next attempt of the step is {expected}"
            was = number if state is StepState.QUEUED else f"the step was {self._where(step)}"
            self._wrong(f"{event.text}, but {was}")
        elif (
            before is StepState.WAITING
            and state is not StepState.CANCELLED
            and self._is_judged(step)
        ):
            verdict = self.verdict(step)
            if verdict is not state:
                self._wrong(f"{event.text}, but {self._reason(step, verdict)}")
            else:
                self._check_cause(event, state)
        replaced = self._replaced.pop(step, None)
        follows, how = _REPLACED[replaced] if replaced else (None, "")
        outcome = getattr(event.detail, "outcome", None)
        if follows and (
            state is not follows or (state is StepState.RETRYING and outcome != Outcome.PUT_BACK)
        ):
            self._wrong(f"{event.text}, but this attempt {how} before")
        if before is StepState.RUNNING and state is StepState.QUEUED and not follows:
            self._wrong(f"{event.text}, but attempt {attempt} has no end")
        if before is StepState.RUNNING:
            self._check_outcome(event)
            self._open.pop(step, None)
        if state is StepState.RETRYING:
            due_at = event.detail.due_at if isinstance(event.detail, Ended) else None
            if due_at is None or due_at < event.at_us:
                self._wrong(f"{event.text} does not say when the next attempt is due")
        if state is StepState.RUNNING:
            self._open[step] = event.attempt
            self.attempts_begun += 1
            self.begun[step] = event.attempt
            self.begun_at[step] = event.at_us
        self._causes.pop(step, None)
        if isinstance(event.detail, Decided) and event.detail.because is not None:
            self._causes[step] = event.detail.because
        self.states[step], self.attempts[step], self.since[step] = state, event.attempt, event.at_us

    def _check_cause(self, event: Event, state: StepState) -> None:
        """A step that ends without an attempt names the one whose end has decided that, by way of
        an upstream."""
        if state not in _WITHOUT_ATTEMPT:
            return
        ups = [
            up
            for up in self.upstream[event.step]
            if state is StepState.SKIPPED or self.state_of(up) in _BAD
        ]
        may_be = {self._causes.get(up, up) for up in ups}
        if state is StepState.SKIPPED and self.rules[event.step] == "one_failed":
            # when the run begins or is resumed, and nothing above it has failed
            may_be.add(event.step)
        told = event.detail.because if isinstance(event.detail, Decided) else None
        if told not in may_be:
            named = ", ".join(map(repr, sorted(may_be)[:_NAMED]))
            self._wrong(
                f"{event.text} says that {told!r} has decided it, but that was {named or 'nobody'}"
            )

    def _take_reused(self, event: Event) -> None:
        """A step is taken over when the run begins, with all that is above it, and has no attempt
        of its own."""
        step, detail = event.step, event.detail
        assert isinstance(detail, TakenOver)
        source = Reused(detail.run, detail.attempt)
        self._check_run_goes_on(event, StepState.SUCCEEDED)
        if not self._is_beginning:
            self._wrong(f"{event.text}, but a step is taken over only when the run begins")
        if self.state_of(step) is not StepState.WAITING or event.attempt:
            self._wrong(f"{event.text}, but the step was {self._where(step)}")
        if not source.run_id or source.attempt < 1:
            self._wrong(f"{event.text} does not name the attempt of another run")
        if self._is_judged(step) and (own := sorted(set(self.upstream[step]) - self.reused.keys())):
            self._wrong(f"{event.text}, but its upstream {own[0]!r} is not taken over")
        self.states[step], self.reused[step], self.since[step] = (
            StepState.SUCCEEDED,
            source,
            event.at_us,
        )
        self.attempts.setdefault(step, 0)

    def _check_run_goes_on(self, event: Event, state: StepState) -> None:
        if event.step not in self.members:
            self._wrong(f"{event.text}, but the run has no such step")
        if self.run_state not in (RunState.QUEUED, RunState.RUNNING):
            self._wrong(f"{event.text}, but the run was {self.run_state or 'not created yet'}")
        elif state is StepState.RUNNING and self.run_state is not RunState.RUNNING:
            self._wrong(f"{event.text}, but the run was {self.run_state}")

    def _take_replaced(self, event: Event) -> None:
        step = event.step
        is_running = (
            self.state_of(step) is StepState.RUNNING and self._open.get(step) == event.attempt
        )
        if not is_running or step in self._replaced:
            self._wrong(f"{event.text}, but the step was {self._where(step)}")
        else:
            self._check_outcome(event)
            self._open.pop(step)
            self._replaced[step] = event.kind

    def _check_outcome(self, event: Event) -> None:
        """The event that ends an attempt says how it ended; who follows another one (`_REPLACED`)
        need not."""
        may_be = _OUTCOMES.get(event.kind)
        outcome = getattr(event.detail, "outcome", None)
        if may_be and event.step in self._open and outcome not in may_be:
            self._wrong(f"{event.text}, but the outcome of its attempt is {outcome}")

    def _is_judged(self, step: str) -> bool:
        return step in self.upstream and step in self.members and step not in self.unsure[0]

    def verdict(self, step: str) -> StepState:
        """Return what a waiting step must be by its rule, as its upstreams are now."""
        rule, states = self.rules[step], {self.state_of(up) for up in self.upstream[step]}
        has_bad, is_waiting = (
            not states.isdisjoint(_BAD),
            not all(state.is_ended for state in states),
        )
        if has_bad and rule in ("all_success", "none_failed"):
            return StepState.UPSTREAM_FAILED
        if has_bad and rule == "one_failed":
            return StepState.QUEUED
        if is_waiting:
            return StepState.WAITING
        if rule == "one_failed" or (rule == "all_success" and StepState.SKIPPED in states):
            return StepState.SKIPPED
        return StepState.QUEUED

    def _reason(self, step: str, verdict: StepState) -> str:
        states = {up: self.state_of(up) for up in self.upstream[step]}
        telling = {
            up: state for up, state in states.items() if state is not StepState.SUCCEEDED
        } or states
        shown = ", ".join(f"{up!r} is {state}" for up, state in islice(telling.items(), _NAMED))
        because = f": upstream {shown}{and_more(len(telling) - _NAMED)}" if telling else ""
        return f"by its rule {self.rules[step]} it must be {verdict}{because}"

    def _where(self, step: str) -> str:
        return f"{self.state_of(step)} at attempt {self.attempts.get(step, 0)}"

    def _wrong(self, sentence: str) -> None:
        self.violations.append(sentence)
