"""`orchestrator cancel`: end a run, or steps of it, before their time."""

from __future__ import annotations

import getpass
import json
from collections.abc import Sequence
from typing import Any

import click

from orchestrator.cli.answer import answer, json_option
from orchestrator.cli.session import Session, find_run, open_session
from orchestrator.cli.summary import stopped_text
from orchestrator.errors import RunNotFound, names_hint
from orchestrator.ledger.events import Event, EventKind
from orchestrator.ledger.states import RunState
from orchestrator.ledger.values import LeasedAttempt


@click.command()
@click.argument("run_text", metavar="RUN")
@click.argument("steps", nargs=-1, metavar="[STEP]...")
@click.option("--reason", metavar="TEXT", help="Why, for the record.")
@click.option("--no-wait", is_flag=True, help="Do not wait until what runs is stopped.")
@json_option()
def cancel(run_text: str, steps: tuple[str, ...], reason: str | None, no_wait: bool, as_json: bool) -> None:
    """Cancel a run, or only these steps of it; then the run goes on, and for what is below them they failed.

    What runs is asked to stop, and killed after a grace with all that it started.
    """
    reason = reason or f"cancelled by {_user()}"
    with open_session() as session:
        ledger = session.ledger
        run_id = find_run(ledger, run_text)
        after = ledger.last_event_id(run_id)
        count = _cancel_steps(session, run_id, steps, reason) if steps else ledger.cancel(run_id, reason)
        state = ledger.run_fields(run_id)["state"]
        if not as_json:
            click.echo(_told(run_id, steps, count, state))
        left = _wait(session, run_id, steps, is_waiting=not no_wait, is_quiet=as_json)
        stopped = [
            event
            for event in ledger.events(run_id, after)
            if event.kind is EventKind.ATTEMPT_STOPPED and (not steps or event.step in steps)
        ]
        if RunState(ledger.run_fields(run_id)["state"]).is_ended and ledger.advance_due(run_id).is_over:
            ledger.unwatch_run(run_id)
    if as_json:
        answer(json.dumps(_as_json(run_id, state, count, reason, stopped, left)))
        return
    for event in stopped:
        click.echo(f"  {event.step} {stopped_text(event.detail)}")
    for attempt in left:
        click.echo(f"  {attempt.step} is still being stopped by {attempt.worker}")


def _cancel_steps(session: Session, run_id: str, steps: Sequence[str], reason: str) -> int:
    ledger = session.ledger
    known = ledger.entries(run_id)
    for step in steps:
        if step not in known:
            raise RunNotFound(f"run {run_id} has no step {step!r}.{names_hint(step, known)}")
    count, chains = ledger.cancel_steps(run_id, list(dict.fromkeys(steps)), reason)
    if chains:
        from orchestrator.messages.dispatch import dispatch_ready

        dispatch_ready(session.app, ledger, run_id, chains)
    return count


def _told(run_id: str, steps: Sequence[str], count: int | None, state: str) -> str:
    if steps:
        named = "step" if len(steps) == 1 else "steps"
        if not count:
            return f"run {run_id}: the {named} had ended already"
        others = f", {len(steps) - count} had ended already" if count < len(steps) else ""
        return f"run {run_id}: cancelled {count} {'step' if count == 1 else 'steps'}{others}"
    if count is None:
        return f"run {run_id} has ended already: {state}"
    return f"run {run_id} is cancelled, with {count:,} step{'' if count == 1 else 's'} that had not ended"


def _wait(
    session: Session, run_id: str, steps: Sequence[str], *, is_waiting: bool, is_quiet: bool
) -> list[LeasedAttempt]:
    """Give the attempts that are still being stopped when the limit has passed, or when nobody waits for it."""
    ledger, chosen = session.ledger, session.settings
    left = [attempt for attempt in ledger.stopping(run_id) if not steps or attempt.step in steps]
    if not left or not is_waiting:
        return left
    from orchestrator.coordinator.coordinator import Coordinator
    from orchestrator.coordinator.stopping import stopping_limit_s, wait_until_stopped

    if not is_quiet:
        many = "1 attempt is" if len(left) == 1 else f"{len(left):,} attempts are"
        click.echo(f"{many} being stopped", err=True)
    limit_s = stopping_limit_s(chosen)
    coordinator = Coordinator(ledger, session.app, chosen, is_follower=True)
    visit = coordinator.visit if steps else None  # only then the run goes on
    return wait_until_stopped(ledger, chosen, run_id, limit_s, steps=steps or None, visit=visit)


def _as_json(
    run_id: str,
    state: str,
    count: int | None,
    reason: str,
    stopped: Sequence[Event],
    left: Sequence[LeasedAttempt],
) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "state": state,
        "cancelled": count or 0,
        **({"reason": reason} if count else {}),
        "stopped": [{"step": event.step, "attempt": event.attempt, **event.detail} for event in stopped],
        "stopping": [{"step": it.step, "attempt": it.attempt, "worker": it.worker} for it in left],
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # nobody in the machine's list of users, as in many containers
        return "orchestrator cancel"
