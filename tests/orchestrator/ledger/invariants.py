"""What must hold for the record of any run, told from its events alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import pairwise

from oracle import judge

from orchestrator.ledger.ledger import Event
from orchestrator.ledger.states import STEP_TRANSITIONS, RunState, StepState

RUN_TRANSITIONS = {
    None: {"run.created"},
    "run.created": {"run.started", "run.succeeded", "run.cancelled", "run.failed"},
    "run.started": {"run.succeeded", "run.failed", "run.cancelled"},
}


def check_record(
    events: Iterable[Event], upstream: Mapping[str, Iterable[str]], rules: Mapping[str, str]
) -> tuple[dict[str, StepState], str]:
    """Replay the events and check every one. Gives the states that they lead to, and the last event of the run."""
    events = list(events)
    states = dict.fromkeys(upstream, StepState.WAITING)
    attempts: dict[str, int] = defaultdict(int)
    begun: set[tuple[str, int]] = set()
    ended: set[tuple[str, int]] = set()
    run_event: str | None = None

    for event in events:
        step, is_over = event.step, run_event in ("run.succeeded", "run.failed", "run.cancelled")
        if event.event.startswith("run."):
            assert event.event in RUN_TRANSITIONS[run_event], f"{event} after {run_event}"
            run_event = event.event
        elif event.event == "commit.refused":
            assert event.attempt <= attempts[step]
        else:
            state = StepState(event.event.removeprefix("step.").replace("started", "running"))
            assert not is_over, f"{event} after {run_event}"
            assert run_event == "run.started" or state is not StepState.RUNNING
            assert state in STEP_TRANSITIONS[states[step]], f"{event}: {states[step]} -> {state}"
            if states[step] is StepState.WAITING and state is not StepState.CANCELLED:
                # The step became what its rule says, now and not before.
                assert state == judge(rules[step], [states[parent] for parent in upstream[step]]), event
            if state is StepState.QUEUED:
                attempts[step] += 1
            assert event.attempt == attempts[step]
            if state is StepState.RUNNING:
                begun.add((step, event.attempt))
            elif states[step] is StepState.RUNNING:
                ended.add((step, event.attempt))
            states[step] = state

    times = [event.at_us for event in events]
    ids = [tuple(map(int, event.id.split("-"))) for event in events]
    assert times == sorted(times)
    assert all(earlier < later for earlier, later in pairwise(ids))
    successes = [event.step for event in events if event.event == "step.succeeded"]
    assert len(successes) == len(set(successes)), "a step has two committed successes"
    _check_end(states, run_event)
    if run_event in ("run.succeeded", "run.failed", "run.cancelled"):
        assert begun == ended, "an attempt began and has no end"
    return states, run_event or ""


def _check_end(states: Mapping[str, StepState], run_event: str | None) -> None:
    """The run's state follows from its steps'."""
    is_ended = all(state.is_ended for state in states.values())
    if run_event == "run.cancelled":
        assert is_ended
        return
    assert StepState.CANCELLED not in states.values()
    expected = RunState.FAILED if StepState.FAILED in states.values() else RunState.SUCCEEDED
    assert is_ended == (run_event in ("run.succeeded", "run.failed"))
    assert not is_ended or run_event == f"run.{expected}"
