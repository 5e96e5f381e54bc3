"""The record of a run with no more in it than one step's explanation needs: the step, the steps
that it waits for, and the one whose end has decided it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.ledger.events import EventKind
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.parsing import StepStanding
from orchestrator.ledger.states import ENDED_STEP_STATES, RunState, StepState
from orchestrator.record.garbage import no_collections
from orchestrator.record.run import RunRecord, StepRecord, read_record
from orchestrator.runs.awaited import awaited_steps, roots_of
from orchestrator.runs.last_events import LastEvents


class _Unclear(Exception):
    """The events that were found do not tell how a step came to where it is."""


def read_around(ledger: Ledger, run_id: str, name: str, most_named: int) -> RunRecord:
    """Return the record of a run with one step in it, and what `explain` says of others: the steps
    that it waits for, of which `most_named` are told about in full.

    A step that the run does not have is not in it. Where little does not tell enough, all of the
    run is read. Raises RunUnknown.
    """
    fields = ledger.run_fields(run_id)
    if fields["state"] == RunState.RESUMING:  # its steps stand as before, some of them
        return read_record(ledger, run_id)
    record = _run_alone(run_id, fields)
    reading = _Reading(ledger, record, LastEvents(ledger, run_id, fields))
    try:
        with no_collections():
            reading.read(name, most_named)
    except _Unclear:
        return read_record(ledger, run_id)
    return record


@dataclass(frozen=True)
class _Reading:
    """Brings steps into the record of their run."""

    ledger: Ledger
    record: RunRecord
    events: LastEvents

    def read(self, name: str, most_named: int) -> None:
        """Bring in a step with what its explanation says of others. Raises _Unclear."""
        steps = self.record.steps
        self._tell([name], with_earlier=True)
        if name not in steps:
            return
        step = steps[name]
        if step.because and step.because != name:
            self._tell([step.because])
        elif step.state is StepState.WAITING:
            self._bring_in_awaited(name)
            awaited = awaited_steps(self.record, step)
            direct = set(awaited)
            behind = [root for root in roots_of(self.record, awaited) if root not in direct]
            named = {*awaited[:most_named], *behind[:most_named]}
            self._tell([it for it in named if steps[it].state is not StepState.WAITING])

    def _bring_in_awaited(self, name: str) -> None:
        """Bring in the steps that one waits for and that have not ended, with no more than their
        states; and those that these wait for."""
        run_id, steps = self.record.run_id, self.record.steps
        ahead, seen = [name], {name}
        while ahead:
            ups = dict.fromkeys(up for step in ahead for up in steps[step].upstream)
            further = [up for up in ups if up not in seen]
            seen.update(further)
            states = self.ledger.states_of(run_id, further)
            waiting = [step for step, state in states.items() if state is StepState.WAITING]
            specs = self.ledger.specs_of(run_id, waiting)
            for step, state in states.items():
                if step in specs:
                    steps[step] = StepRecord(upstream=tuple(specs[step].upstream))
                elif state not in ENDED_STEP_STATES and state is not StepState.WAITING:
                    steps[step] = StepRecord(state)
            ahead = list(specs)

    def _tell(self, names: Sequence[str], *, with_earlier: bool = False) -> None:
        """Bring in steps with their last events. Raises _Unclear."""
        run_id = self.record.run_id
        specs, entries = (
            self.ledger.specs_of(run_id, names),
            self.ledger.entries_of(run_id, names),
        )
        standings = self.ledger.standings_of(run_id, names)
        for name in names:
            if name in specs and name in entries:
                spec = specs[name]
                step = StepRecord(
                    upstream=tuple(spec.upstream), pool=spec.pool, queue=entries[name].queue
                )
                self._let_it_be(step, name, standings[name], with_earlier)
                self.record.steps[name] = step
                self.record.specs = {**self.record.specs, name: spec}

    def _let_it_be(
        self, step: StepRecord, name: str, standing: StepStanding, with_earlier: bool
    ) -> None:
        """Let a step that waits be where it stands. Raises _Unclear."""
        run_id = self.record.run_id
        if standing.state is StepState.WAITING:
            return
        if standing.state is StepState.SUCCEEDED and not standing.attempt:
            step.state, step.reused = standing.state, self.ledger.reused_by(run_id, name)
            if step.reused is None:
                raise _Unclear
            return
        events = self.events.of(name, standing, with_earlier=with_earlier)
        resumes = sum(event.kind is EventKind.RUN_RESUMED for event in events)
        alone = replace(self.record, steps={name: step}, resumes=self.record.resumes - resumes)
        alone.apply(events)
        attempts = [attempt.attempt for attempt in step.attempts]
        if step.state is not standing.state or (attempts and attempts[-1] != standing.attempt):
            raise _Unclear
        if with_earlier and standing.state.is_ended and not _is_whole(attempts, standing):
            raise _Unclear
        if step.due_at_us is not None:
            step.due_at_us = self.ledger.due_at(run_id, name) or step.due_at_us


def _is_whole(attempts: Iterable[int], standing: StepStanding) -> bool:
    """Return whether these are the attempts that are told of a step that has ended: of one that did
    not run now, its only attempt of before is not."""
    expected = list(range(1, standing.attempt + 1))
    has_run = standing.state in (StepState.SUCCEEDED, StepState.FAILED, StepState.CANCELLED)
    return list(attempts) == expected or (not has_run and standing.attempt == 1)


def _run_alone(run_id: str, fields: Mapping[str, str]) -> RunRecord:
    """Return the record of a run, without its steps and its outputs."""
    started_at, ended_at = fields.get("started_at"), fields.get("ended_at")
    return RunRecord(
        run_id=run_id,
        pipeline=fields["pipeline"],
        state=RunState(fields["state"]),
        params_wire=json.loads(fields["params"]),
        created_at_us=int(fields["created_at"]),
        started_at_us=int(started_at) if started_at else None,
        ended_at_us=int(ended_at) if ended_at else None,
        cancel_reason=fields.get("cancel_reason"),
        steps={},
        outputs={},
        resumes=int(fields.get("resumes", 0)),
        rerun_of=fields.get("rerun_of"),
    )
