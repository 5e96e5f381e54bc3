"""What must hold for the record of any run, told from its events alone: the product's own replay,
and a little more."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from orchestrator.ledger.events import Event
from orchestrator.ledger.states import RunState, StepState
from orchestrator.record.replay import replay_events


def check_record(
    events: Iterable[Event], upstream: Mapping[str, Collection[str]], rules: Mapping[str, str]
) -> tuple[dict[str, StepState], RunState | None]:
    """Replay the events and check every one. Gives the states that they lead to, and that of the
    run."""
    events = list(events)
    replay = replay_events(events, upstream, rules)
    assert replay.violations == []

    # Who is refused spoke for an attempt that there had been; a lost one had not been lost too
    # often before.
    attempts: dict[str, int] = defaultdict(int)
    lost: dict[str, int] = defaultdict(int)
    for event in events:
        if event.kind == "step.queued":
            attempts[event.step] = event.attempt
        elif event.kind in ("commit.refused", "log.refused", "attempt.stopped"):
            assert event.attempt <= attempts[event.step], event
        elif event.kind == "run.resumed":
            lost.clear()
        elif isinstance(event.fields, dict) and "budget" in event.fields:
            lost[event.step] += 1
            assert event.fields["lost"] == lost[event.step]
            assert (event.kind == "step.failed") == (lost[event.step] >= event.fields["budget"]), (
                event
            )
    return {step: replay.state_of(step) for step in upstream}, replay.run_state
