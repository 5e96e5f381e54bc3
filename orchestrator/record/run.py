"""The record of a run, read from its events: every step, every attempt, with times, outcome and
error."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.error_card import ErrorCard
from orchestrator.ledger.details import (
    Decided,
    Ended,
    HandedOver,
    Lost,
    PutBack,
    Resumed,
    Shifted,
    Started,
    TakenOver,
    Willed,
)
from orchestrator.ledger.entries import StepSpec
from orchestrator.ledger.events import (
    REPAIRS,
    REPLACEMENTS,
    RUN_ENDS,
    STEP_STATES,
    Event,
    EventKind,
)
from orchestrator.ledger.past import Past
from orchestrator.ledger.states import Outcome, RunState, StepState
from orchestrator.ledger.values import Reused
from orchestrator.record.garbage import no_collections
from orchestrator.record.received import Received, Source, reads_of
from orchestrator.record.source import EventSource
from orchestrator.record.tries import UNCOUNTED, Tries

_ENDINGS = {
    EventKind.STEP_SUCCEEDED,
    EventKind.STEP_FAILED,
    EventKind.STEP_RETRYING,
    EventKind.STEP_CANCELLED,
}
_OUTCOMES: Mapping[str, Outcome] = {outcome.value: outcome for outcome in Outcome}


@dataclass(slots=True)
class AttemptRecord:
    """One attempt. Times are microseconds since the epoch; `error` has type, message and traceback.

    `reason` says why it was handed over or put back. `stopped` says how the process of an attempt
    that had to be stopped went: how, after_s, processes, at_us. `code` has the id of the files that
    it ran and, where they differ from those that were submitted, `differs` (file -> the beginnings
    of both digests) and host. `resumes` is how often the run had been resumed by then. The places
    count events of the run: that with which the attempt began, that with which it ended, and the
    resume that set its success back.
    """

    attempt: int
    queued_at_us: int
    worker: str | None = None
    started_at_us: int | None = None
    ended_at_us: int | None = None
    outcome: Outcome | None = None
    error: ErrorCard | None = None
    stopped: dict[str, Any] | None = None
    reason: str | None = None
    code: Mapping[str, Any] | None = None
    resumes: int = 0
    began_place: int | None = None
    ended_place: int | None = None
    undone_place: int | None = None

    def has_success_at(self, place: int) -> bool:
        """Return whether this attempt's success counted when the event at that place happened."""
        if (
            self.outcome is not Outcome.SUCCEEDED
            or self.ended_place is None
            or self.ended_place > place
        ):
            return False
        return self.undone_place is None or self.undone_place > place


@dataclass(slots=True)
class StepRecord:
    """One step. `because` names the step whose failure or skip decided this one; `due_at_us` is of
    its next retry.

    `cancel_reason` is of a cancelled step. `reused` is the attempt of another run whose success
    this one is, or was until the resume at `reused_until_place`.
    """

    state: StepState = StepState.WAITING
    upstream: tuple[str, ...] = ()
    pool: str = ""
    queue: str = ""
    attempts: list[AttemptRecord] = field(default_factory=list)
    because: str | None = None
    due_at_us: int | None = None
    cancel_reason: str | None = None
    reused: Reused | None = None
    reused_until_place: int | None = None

    @property
    def is_reused(self) -> bool:
        """Whether the step has succeeded without an attempt of its own."""
        return self.reused is not None and self.reused_until_place is None

    def apply(self, event: Event, place: int = 0, resumes: int = 0) -> None:
        """Take in one event of this step or of an attempt of it: the run's event number `place`."""
        if event.kind in STEP_STATES:
            self._apply_change(event, place, resumes)
        elif event.kind in REPLACEMENTS:
            self._end_attempt(event, place)
        elif event.kind is EventKind.ATTEMPT_STOPPED:
            for attempt in self.attempts:
                if attempt.attempt == event.attempt:
                    attempt.stopped = {**event.fields, "at_us": event.at_us}

    @property
    def drift(self) -> str:
        """Return what is to be said when the last attempt that ended ran other code than was
        submitted, else ""."""
        ended = [attempt for attempt in self.attempts if attempt.code]
        return drift_text(ended[-1].code) if ended else ""

    @property
    def last_begun(self) -> AttemptRecord | None:
        """The last attempt that began: the one that counts, of a step that has succeeded."""
        return next(
            (attempt for attempt in reversed(self.attempts) if attempt.began_place is not None),
            None,
        )

    def reset(self, place: int = 0) -> None:
        """Let the step wait anew, as a resume does; its attempts stay in the record."""
        if self.is_reused:
            self.reused_until_place = place
        elif self.state is StepState.SUCCEEDED and self.attempts:
            self.attempts[-1].undone_place = place
        self.state, self.because, self.due_at_us, self.cancel_reason = (
            StepState.WAITING,
            None,
            None,
            None,
        )

    def _apply_change(self, event: Event, place: int, resumes: int) -> None:
        kind = event.kind
        self.state, self.due_at_us = STEP_STATES[kind], None
        if kind is EventKind.STEP_QUEUED:
            self.attempts.append(AttemptRecord(event.attempt, event.at_us, resumes=resumes))
            return
        match event.detail:
            case Ended() as ended:
                self.due_at_us = ended.due_at
            case Started(worker):
                last = self.attempts[-1]
                last.started_at_us, last.began_place, last.worker = event.at_us, place, worker
            case TakenOver(run, attempt):
                self.reused = Reused(run, attempt)
            case Decided(because):
                self.because = because
            case Willed(reason):
                self.cancel_reason = reason
        if kind in _ENDINGS:
            self._end_attempt(event, place)

    def _end_attempt(self, event: Event, place: int) -> None:
        if not self.attempts or self.attempts[-1].ended_at_us is not None:
            return
        last = self.attempts[-1]
        last.ended_at_us, last.ended_place = event.at_us, place
        match event.detail:
            case Ended(said, error, code):
                last.error, last.code = error, code
            case Lost(said, error):
                last.error = error
            case HandedOver(said, reason) | PutBack(said, reason):
                last.reason = reason
            case _:
                said = None
        last.outcome = _OUTCOMES.get(said or Outcome.CANCELLED)


@dataclass(slots=True)
class RunRecord:
    """One run. Steps stand in the order in which the user listed them. `specs` and `params` are
    those of now, in the wire form; `past` holds what resumes have replaced."""

    run_id: str
    pipeline: str
    state: RunState
    params_wire: dict[str, Any]
    created_at_us: int
    started_at_us: int | None
    ended_at_us: int | None
    cancel_reason: str | None
    steps: dict[str, StepRecord]
    outputs: Mapping[str, str]
    repairs: int = 0
    resumes: int = 0
    resumed_at_us: int | None = None  # the last time
    specs: Mapping[str, StepSpec] = field(default_factory=dict, repr=False)
    past: Past = field(default_factory=Past, repr=False)
    # steps that a resume has taken away
    gone: dict[str, StepRecord] = field(default_factory=dict, repr=False)
    events: int = 0
    last_event_id: str = "0"
    rerun_of: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    def apply(self, events: Iterable[Event]) -> None:
        """Take in the next events of the run. What an event that makes no sense would say is left
        out: a record that somebody has changed can still be looked at, and `verify` finds the
        event."""
        for event in events:
            self.events += 1
            self.last_event_id = event.id
            try:
                self._take(event)
            except (AttributeError, IndexError, KeyError, TypeError, ValueError):
                continue

    def _take(self, event: Event) -> None:
        if event.kind in REPAIRS:
            self.repairs += 1
        if event.step:
            step = self.steps.get(event.step) or self.gone.setdefault(event.step, StepRecord())
            step.apply(event, self.events, self.resumes)
        elif event.kind is EventKind.RUN_STARTED:
            self.state, self.started_at_us = RunState.RUNNING, event.at_us
        elif event.kind is EventKind.RUN_RESUMED:
            self._resume(event)
        elif event.kind is EventKind.CLOCK_SHIFTED:
            assert isinstance(event.detail, Shifted)
            self._shift_due_times(round(event.detail.by_s * 1e6))
        elif event.kind is EventKind.RUN_CANCELLING:
            assert isinstance(event.detail, Willed)
            self.state, self.cancel_reason = RunState.CANCELLING, event.detail.reason
        elif event.kind in RUN_ENDS:
            self.state, self.ended_at_us = RUN_ENDS[event.kind], event.at_us
            self.cancel_reason = event.detail.reason if isinstance(event.detail, Willed) else None

    def _shift_due_times(self, by_us: int) -> None:
        """Move what is still to come; what has been is dated by the clock of its time."""
        for step in self.steps.values():
            if step.due_at_us is not None:
                step.due_at_us += by_us

    def _resume(self, event: Event) -> None:
        self.state = RunState.QUEUED if self.started_at_us is None else RunState.RUNNING
        self.ended_at_us, self.cancel_reason = None, None
        self.resumes += 1
        self.resumed_at_us = event.at_us
        assert isinstance(event.detail, Resumed)
        again = {*event.detail.again, *event.detail.gone}
        for name, step in (*self.steps.items(), *self.gone.items()):
            if step.state is not StepState.SUCCEEDED or name in again:
                step.reset(self.events)

    def tries(self, step: str) -> Tries:
        """Return what a step has used of its retries in the time since the last resume."""
        attempts = self.steps[step].attempts
        last = attempts[-1] if attempts else None
        spec = self.specs.get(step)
        if spec and last and last.began_place is not None:
            spec = self.past.spec_at(step, last.resumes) or spec
        since = [attempt for attempt in attempts if attempt.resumes == self.resumes]
        return Tries(
            sum(attempt.outcome not in UNCOUNTED for attempt in since),
            (spec.options.get("retries", 0) if spec else 0) + 1,
            len(since) < len(attempts),
        )

    def received(self, step: str, attempt: AttemptRecord) -> Received | None:
        """Return what an attempt was given; None when it never began."""
        if attempt.began_place is None or step not in self.specs:
            return None
        spec = self.past.spec_at(step, attempt.resumes)
        params = self.past.params_at(attempt.resumes)
        return self._received(
            self.specs[step] if spec is None else spec,
            self.params_wire if params is None else params,
            attempt.began_place,
        )

    def would_receive(self, step: str) -> Received:
        """Return what the step would be given if it ran now."""
        return self._received(self.specs[step], self.params_wire, self.events + 1)

    def differences(self, step: str) -> dict[str, tuple[Any, Any]]:
        """Return in what the arguments of a step that succeeded differ from those that it would get
        now."""
        last = self.steps[step].last_begun
        if self.steps[step].state is not StepState.SUCCEEDED or last is None or not self.resumes:
            return {}
        received = self.received(step, last)
        return received.differences(self.would_receive(step)) if received else {}

    def _received(self, spec: StepSpec, params: dict[str, Any], place: int) -> Received:
        return Received(
            spec, params, {step: self._source(step, place) for step in reads_of(spec)[0]}
        )

    def _source(self, step: str, place: int) -> Source:
        known = self.steps.get(step) or self.gone.get(step) or StepRecord()
        for attempt in reversed(known.attempts):
            if attempt.has_success_at(place):
                now = "" if attempt.undone_place else self.outputs.get(step, "")
                return Source(
                    step, attempt.attempt, self.past.outputs.get((step, attempt.attempt), now)
                )
        if known.reused and (known.reused_until_place is None or known.reused_until_place > place):
            now = "" if known.reused_until_place else self.outputs.get(step, "")
            return Source(step, 0, self.past.outputs.get((step, 0), now))
        return Source(step, None, "")


def drift_text(code: Mapping[str, Any] | None) -> str:
    """Return what is to be said of an attempt's code that differs from what was submitted, "" if it
    does not."""
    differs = (code or {}).get("differs")
    return (
        f"ran other code than was submitted on host {(code or {}).get('host')}:"
        f" {', '.join(differs)}"
        if differs
        else ""
    )


def read_skeleton(source: EventSource, run_id: str) -> RunRecord:
    """Return the record of a run before its first event: what was submitted. Raises RunUnknown."""
    fields = source.run_fields(run_id)
    # the entries are gone before the specs come: of many steps both are large
    queues = {step: entry.queue for step, entry in source.entries(run_id).items()}
    specs = source.specs(run_id)
    return RunRecord(
        run_id=run_id,
        pipeline=fields["pipeline"],
        state=RunState.QUEUED,
        params_wire=json.loads(fields["params"]),
        created_at_us=int(fields["created_at"]),
        started_at_us=None,
        ended_at_us=None,
        cancel_reason=None,
        steps=_waiting_steps(queues, specs),
        outputs={},
        specs=specs,
        rerun_of=fields.get("rerun_of"),
        labels=json.loads(fields.get("labels") or "{}"),
    )


def _waiting_steps(
    queues: Mapping[str, str], specs: Mapping[str, StepSpec]
) -> dict[str, StepRecord]:
    """Return the steps of a run before its first event. Texts that many of them have are kept
    once, as the keys of `specs` if they are names."""
    names, steps = {step: step for step in specs}, dict[str, StepRecord]()
    texts, upstreams = dict[str, str](), dict[tuple[str, ...], tuple[str, ...]]()
    for step, queue in queues.items():
        spec = specs[step]
        upstream = tuple([names.get(up, up) for up in spec.upstream])
        steps[names[step]] = StepRecord(
            upstream=upstreams.setdefault(upstream, upstream),
            pool=texts.setdefault(spec.pool, spec.pool),
            queue=texts.setdefault(queue, queue),
        )
    return steps


def read_record(source: EventSource, run_id: str) -> RunRecord:
    """Return the record of a run as it stands. Raises RunUnknown."""
    with no_collections():
        record = read_skeleton(source, run_id)
        complete(source, record)
    return record


def complete(source: EventSource, record: RunRecord) -> None:
    """Bring a record that knows the first events of its run to where the run stands."""
    record.apply(source.events(record.run_id, record.last_event_id))
    record.outputs = source.outputs(record.run_id)
    record.past = source.past(record.run_id)
