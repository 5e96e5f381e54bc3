"""What the events of steps must be: the part of the replay that judges one step at a time."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import islice

from orchestrator.ledger.details import Decided, Ended, TakenOver
from orchestrator.ledger.events import (
    STEP_STATES,
    Event,
    EventKind,
)
from orchestrator.ledger.states import STEP_TRANSITIONS, Outcome, RunState, StepState
from orchestrator.ledger.values import Reused
from orchestrator.record.rules import BAD, verdict_of
from orchestrator.wording import and_more

_WITHOUT_ATTEMPT = {StepState.UPSTREAM_FAILED, StepState.SKIPPED}
REPLACED = {  # event -> the state that its step gets next, and how people read it
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


@dataclass
class StepReplay:
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
    is_in_pages: bool = False  # what one call has decided several may have written
    _last: Event | None = None

    def state_of(self, step: str) -> StepState:
        return self.states.get(step, StepState.WAITING)

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
        self._check_end_of_attempt(event, before, state)
        if state is StepState.RUNNING:
            self._open[step] = event.attempt
            self.attempts_begun += 1
            self.begun[step] = event.attempt
            self.begun_at[step] = event.at_us
        self._causes.pop(step, None)
        if isinstance(event.detail, Decided) and event.detail.because is not None:
            self._causes[step] = event.detail.because
        self.states[step], self.attempts[step], self.since[step] = state, event.attempt, event.at_us

    def _check_end_of_attempt(self, event: Event, before: StepState, state: StepState) -> None:
        replaced = self._replaced.pop(event.step, None)
        follows, how = REPLACED[replaced] if replaced else (None, "")
        outcome = getattr(event.detail, "outcome", None)
        if follows and (
            state is not follows or (state is StepState.RETRYING and outcome != Outcome.PUT_BACK)
        ):
            self._wrong(f"{event.text}, but this attempt {how} before")
        if before is StepState.RUNNING and state is StepState.QUEUED and not follows:
            attempt = self.attempts.get(event.step, 0)
            self._wrong(f"{event.text}, but attempt {attempt} has no end")
        if before is StepState.RUNNING:
            self._check_outcome(event)
            self._open.pop(event.step, None)
        if state is StepState.RETRYING:
            due_at = event.detail.due_at if isinstance(event.detail, Ended) else None
            if due_at is None or due_at < event.at_us:
                self._wrong(f"{event.text} does not say when the next attempt is due")

    def _check_cause(self, event: Event, state: StepState) -> None:
        """A step that ends without an attempt names the one whose end has decided that, by way of
        an upstream."""
        if state not in _WITHOUT_ATTEMPT:
            return
        ups = [
            up
            for up in self.upstream[event.step]
            if state is StepState.SKIPPED or self.state_of(up) in BAD
        ]
        may_be = {self._causes.get(up, up) for up in ups}
        if state is StepState.SKIPPED and self.rules[event.step] == "one_failed":
            # when the run begins or is resumed, and nothing above it has failed
            may_be.add(event.step)
        cause = event.detail.because if isinstance(event.detail, Decided) else None
        if cause not in may_be:
            named = ", ".join(map(repr, sorted(may_be)[:_NAMED]))
            self._wrong(
                f"{event.text} says that {cause!r} has decided it, but that was {named or 'nobody'}"
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
        may = self.run_state in (RunState.QUEUED, RunState.RUNNING)
        if self.run_state is RunState.CANCELLING:  # what ended before that was heard of counts
            may = state in (StepState.CANCELLED, StepState.SUCCEEDED, StepState.FAILED)
        if not may:
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
        """The event that ends an attempt says how it ended; who follows another one (`REPLACED`)
        need not."""
        may_be = _OUTCOMES.get(event.kind)
        outcome = getattr(event.detail, "outcome", None)
        if may_be and event.step in self._open and outcome not in may_be:
            self._wrong(f"{event.text}, but the outcome of its attempt is {outcome}")

    def _is_judged(self, step: str) -> bool:
        return step in self.upstream and step in self.members and step not in self.unsure[0]

    def verdict(self, step: str) -> StepState:
        """Return what a waiting step must be by its rule, as its upstreams are now."""
        return verdict_of(self.rules[step], {self.state_of(up) for up in self.upstream[step]})

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
