"""Whether the record of a run holds what is promised of every run: its events by themselves, and
against the ledger.

A run that goes on is checked too, for what must hold already.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from orchestrator.ledger.details import Ended
from orchestrator.ledger.events import REPAIRS, Event, EventKind, event_place
from orchestrator.ledger.standing import Standing
from orchestrator.ledger.states import RunState, StepState
from orchestrator.ledger.values import Reused
from orchestrator.record.received import check_received
from orchestrator.record.replay import GRAIN_US, Replay, replay_events
from orchestrator.record.run import drift_text
from orchestrator.record.source import EventSource, StandingSource
from orchestrator.times import rfc3339
from orchestrator.wording import listed

# A step that was reset by a resume and then skipped, or failed because of its upstreams, has given
# up its token.
_KEEP_TOKENS = {StepState.RUNNING, StepState.SUCCEEDED, StepState.RETRYING, StepState.FAILED}
_NAMED = 3  # steps that a sentence names


@dataclass(frozen=True, slots=True)
class Verification:
    """What was checked and what is wrong: `violations` are sentences that name step and event.
    `remarks` are what is not a violation, but what people should know: attempts that ran other
    code, and what cannot be checked.
    """

    run_id: str
    state: RunState
    events: int
    steps: int
    attempts: int
    repairs: int
    violations: tuple[str, ...]
    remarks: tuple[str, ...] = ()


def verify_run(source: StandingSource, run_id: str) -> Verification:
    """Check a run as it stands. Raises RunUnknown."""
    standing = source.standing(run_id)
    replay = replay_events(
        standing.events, standing.upstream, standing.rules, standing.front, standing.page
    )
    wrong, unchecked = check_reused(source, run_id, replay.reused)
    return Verification(
        run_id,
        RunState(standing.fields["state"]),
        len(standing.events),
        len(standing.upstream),
        replay.attempts_begun,
        sum(event.kind in REPAIRS for event in standing.events),
        (
            *replay.violations,
            *compare(standing, replay),
            *check_received(
                standing.events,
                standing.specs,
                json.loads(standing.fields["params"]),
                standing.past,
            ),
            *wrong,
        ),
        (*_drifts(standing.events), *unchecked),
    )


def _drifts(events: Iterable[Event]) -> Iterable[str]:
    """Yield a sentence for each attempt that ran other code than was submitted."""
    for event in events:
        code = event.detail.code if isinstance(event.detail, Ended) else None
        if event.step and isinstance(code, dict) and (text := drift_text(code)):
            yield f"attempt {event.attempt} of step {event.step!r} {text}"


def compare(standing: Standing, replay: Replay) -> Iterable[str]:
    """Return what differs between the ledger and the states to which the events lead."""
    yield from _compare_states(standing, replay)
    yield from _compare_counts(standing, replay)
    yield from _compare_reused(standing, replay)
    if standing.deleted:
        yield f"{standing.deleted} events were deleted from the record"
    yield from _compare_times(standing, replay)
    yield from _compare_tokens(standing, replay)
    yield from _compare_waiting(standing)


def _compare_states(standing: Standing, replay: Replay) -> Iterable[str]:
    fields, held, unreset = standing.fields, standing.states, standing.front.reset
    for step in standing.upstream:
        if step in unreset:
            continue
        by_events = replay.state_of(step), replay.attempts.get(step, 0)
        is_held = held.get(step, (StepState.WAITING, 0))
        if by_events != is_held:
            yield (
                f"by its events step {step!r} is {by_events[0]} at attempt {by_events[1]}, "
                f"but the ledger has it {is_held[0]} at attempt {is_held[1]}"
            )
    for step in sorted(held.keys() - standing.upstream.keys() - standing.front.gone):
        if held[step] != (StepState.WAITING, replay.attempts.get(step, 0)):
            yield (
                f"the run has no step {step!r}, but the ledger has it {held[step][0]} at attempt"
                f" {held[step][1]}"
            )
    is_resuming = fields["state"] == RunState.RESUMING and (
        replay.run_state in (RunState.QUEUED, RunState.RUNNING)
    )
    if fields["state"] != replay.run_state and not is_resuming:
        yield (
            f"by its events the run is {replay.run_state}, but the ledger has it {fields['state']}"
        )


def _compare_counts(standing: Standing, replay: Replay) -> Iterable[str]:
    fields = standing.fields
    counts = Counter(replay.state_of(step) for step in standing.upstream)
    for state in StepState:
        if int(fields.get(f"n:{state}", 0)) != counts[state]:
            yield (
                f"{counts[state]} steps are {state}, but the ledger counts"
                f" {fields.get(f'n:{state}', 0)}"
            )
    still_open = sum(count for state, count in counts.items() if not state.is_ended)
    if int(fields["open"]) != still_open:
        yield f"{still_open} steps have not ended, but the ledger counts {fields['open']}"
    if int(fields.get("resumes", 0)) != replay.resumes:
        yield (
            f"the run was resumed {replay.resumes} times, but the ledger counts"
            f" {fields.get('resumes', 0)}"
        )


def _compare_reused(standing: Standing, replay: Replay) -> Iterable[str]:
    fields = standing.fields
    unwritten = standing.front.reused
    for step in sorted((standing.reused.keys() | replay.reused.keys()) - unwritten):
        if (held_as := standing.reused.get(step)) != (told_as := replay.reused.get(step)):
            yield (
                f"by its events step {step!r} is taken over from {told_as}, but the ledger has it"
                f" from {held_as}"
            )
    named = {source.run_id for source in replay.reused.values()} - set(
        json.loads(fields.get("reuses") or "[]")
    )
    if named or (replay.reused and not fields.get("rerun_of")):
        yield (
            f"steps are taken over from {sorted(named)}, but the run does not say that it is a"
            " rerun of theirs"
        )


def _compare_times(standing: Standing, replay: Replay) -> Iterable[str]:
    """Return the times that differ between the events and what the same calls have written
    elsewhere."""
    for name in ("created_at", "started_at", "ended_at"):
        said, text = replay.times.get(name), standing.fields.get(name)
        is_held = None if text is None else int(text)
        if is_held != said:
            yield (
                f"by its events {name} of the run is {rfc3339(said)}, but the ledger has"
                f" {rfc3339(is_held)}"
            )
    for step in standing.upstream.keys() - standing.front.reset:
        said = replay.since.get(step)
        if said is not None and step in standing.since and standing.since[step] != said:
            yield (
                f"by its events step {step!r} is {replay.state_of(step)} since {rfc3339(said)}, "
                f"but the ledger has {rfc3339(standing.since[step])}"
            )
    if standing.events:
        last = standing.events[-1]
        if last.at_us > max(standing.now_us, (event_place(last.id)[0] + 1) * 1000) + GRAIN_US:
            yield (
                f"{last.kind} (event {last.id}) is of {rfc3339(last.at_us)}, which is still to come"
            )


def _compare_tokens(standing: Standing, replay: Replay) -> Iterable[str]:
    """Return the tokens that may fence nobody off: given twice, given to nobody, or to be given
    again."""
    last, holders = int(standing.fields["token"]), dict[int, str]()
    created_at = int(standing.fields["created_at"])
    if not last and replay.attempts_begun:
        yield f"{replay.attempts_begun} attempts have begun, but the ledger has given no token"
    for step, token in standing.tokens.items():
        state, attempt = standing.states[step]
        has_begun = replay.begun.get(step) == attempt
        if not token:
            if has_begun and state in _KEEP_TOKENS:
                yield (
                    f"step {step!r} is {state} and attempt {attempt} of it has begun, but without a"
                    " token"
                )
            continue
        if has_begun and token < (begun_us := replay.begun_at[step] - created_at):
            yield (
                f"step {step!r} has token {token}, but one of attempt {attempt} is {begun_us} at"
                " least, by its time"
            )
        if not has_begun:
            yield f"step {step!r} has token {token}, but attempt {attempt} of it has not begun"
        if token > last:
            yield (
                f"step {step!r} has token {token}, but the last one that the ledger has given is"
                f" {last}"
            )
        if token in holders:
            yield f"steps {holders[token]!r} and {step!r} have the same token {token}"
        holders[token] = step


def _compare_waiting(standing: Standing) -> Iterable[str]:
    """Return the steps that nobody would ever look at again, and those that are looked at in
    vain."""
    for step in standing.upstream:
        state = standing.states.get(step, (StepState.WAITING, 0))[0]
        is_timed = state in (StepState.RUNNING, StepState.RETRYING)
        is_timed = is_timed or (state is StepState.QUEUED and step in standing.impatient)
        if is_timed and step not in standing.due:
            yield f"step {step!r} is {state}, but the ledger does not know when to look at it again"
        if not is_timed and step in standing.due and state is not StepState.CANCELLED:
            yield f"step {step!r} is {state}, but the ledger means to look at it again"
        if standing.queued is not None and standing.queued[step] != (state is StepState.QUEUED):
            yield (
                f"step {step!r} is {state}, but stands in {standing.queued[step]} lists of those"
                " that are queued"
            )
        if step in standing.outputs and state is not StepState.SUCCEEDED:
            yield f"step {step!r} is {state}, but the ledger has an output of it"


def check_reused(
    source: EventSource, run_id: str, reused: Mapping[str, Reused]
) -> tuple[list[str], list[str]]:
    """Return what is wrong with the steps that were taken over from other runs, by the records of
    those; and which runs are not there any more, so that nobody can say."""
    wrong, unchecked = [], []
    by_run: dict[str, list[str]] = {}
    for step, origin in reused.items():
        by_run.setdefault(origin.run_id, []).append(step)
    own = source.outputs(run_id) if by_run else {}
    for source_run, steps in by_run.items():
        known = {
            (event.step, event.attempt)
            for event in source.events(source_run)
            if event.kind is EventKind.STEP_SUCCEEDED
        }
        if not known:
            named = listed([repr(step) for step in steps], _NAMED)
            unchecked.append(
                f"run {source_run} is gone from the server: whether it computed {named} cannot be"
                " checked"
            )
            continue
        outputs, past, states = (
            source.outputs(source_run),
            source.past(source_run),
            source.states(source_run),
        )
        for step in steps:
            attempt = reused[step].attempt
            where = f"step {step!r} is taken over from attempt {attempt} of run {source_run}"
            is_last = states.get(step) == (StepState.SUCCEEDED, attempt)
            output = outputs.get(step, "") if is_last else past.outputs.get((step, attempt), "")
            if source_run == run_id:
                wrong.append(f"{where}, which is this run")
            elif (step, attempt) not in known:
                wrong.append(f"{where}, which has no such success")
            elif output != own.get(step, ""):
                wrong.append(f"{where}, but has another output than that")
    return wrong, unchecked
