"""Cancelling a run or steps of it, and waiting until what runs is stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orchestrator.errors import RunNotFound, names_hint
from orchestrator.installation import Installation
from orchestrator.ledger.events import Event, EventKind
from orchestrator.ledger.states import RunState
from orchestrator.ledger.values import LeasedAttempt


@dataclass(frozen=True, slots=True)
class Cancellation:
    """What a cancelling did. `count` is how many steps it ended, None when the run had ended
    already; `stopped` are the events of attempts that are gone by now, `stopping` the attempts that
    are not."""

    run_id: str
    state: RunState
    count: int | None
    stopped: tuple[Event, ...]
    stopping: tuple[LeasedAttempt, ...]


def cancel_run(
    installation: Installation,
    run_id: str,
    steps: Sequence[str],
    reason: str,
    *,
    is_waiting: bool = True,
    on_cancelled: Callable[[int | None, RunState], object] = lambda count, state: None,
    on_wait: Callable[[int], object] = lambda attempts: None,
) -> Cancellation:
    """Cancel a run, or only these steps of it, and wait until their attempts are stopped. Raises
    RunNotFound.

    `on_cancelled` is given what the ledger has done, `on_wait` how many attempts are waited for.
    """
    ledger = installation.ledger
    after = ledger.last_event_id(run_id)
    count = (
        _cancel_steps(installation, run_id, steps, reason)
        if steps
        else ledger.cancel(run_id, reason)
    )
    state = RunState(ledger.run_fields(run_id)["state"])
    on_cancelled(count, state)
    left = [attempt for attempt in ledger.stopping(run_id) if not steps or attempt.step in steps]
    if left and is_waiting:
        on_wait(len(left))
        left = _wait(installation, run_id, steps)
    stopped = tuple(
        event
        for event in ledger.events(run_id, after)
        if event.kind is EventKind.ATTEMPT_STOPPED and (not steps or event.step in steps)
    )
    unwatch_if_over(installation, run_id)
    return Cancellation(run_id, state, count, stopped, tuple(left))


def unwatch_if_over(installation: Installation, run_id: str) -> None:
    """Take a run from those that coordinators watch, unless an alert is due or an attempt is being
    stopped."""
    ledger = installation.ledger
    if RunState(ledger.run_fields(run_id)["state"]).is_ended and ledger.advance_due(run_id).is_over:
        ledger.unwatch_run(run_id)


def _cancel_steps(
    installation: Installation, run_id: str, steps: Sequence[str], reason: str
) -> int:
    ledger = installation.ledger
    known = ledger.entries(run_id)
    for step in steps:
        if step not in known:
            raise RunNotFound(f"run {run_id} has no step {step!r}.{names_hint(step, known)}")
    count, chains = ledger.cancel_steps(run_id, list(dict.fromkeys(steps)), reason)
    installation.dispatcher.send(run_id, chains)
    return count


def _wait(installation: Installation, run_id: str, steps: Sequence[str]) -> list[LeasedAttempt]:
    from orchestrator.runs.stopping import stopping_within_s, wait_until_stopped
    from orchestrator.runs.visiting import Visitor

    ledger, settings = installation.ledger, installation.settings
    visitor = Visitor(ledger, installation.app, settings, is_follower=True)
    visit = visitor.visit if steps else None  # only then the run goes on
    return wait_until_stopped(
        ledger, settings, run_id, stopping_within_s(settings), steps=steps or None, visit=visit
    )
