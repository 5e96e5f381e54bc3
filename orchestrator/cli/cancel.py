"""`orchestrator cancel`: end a run, or steps of it, before their time."""

from __future__ import annotations

import getpass
import json
from collections.abc import Sequence
from typing import Any

import click

from orchestrator.cli.answer import answer, json_option
from orchestrator.cli.completion import run_argument
from orchestrator.cli.summary import stopped_text
from orchestrator.installation import open_installation
from orchestrator.ledger.states import RunState
from orchestrator.runs.cancelling import Cancellation, cancel_run
from orchestrator.runs.finding import find_run
from orchestrator.wording import are, counted


@click.command()
@run_argument()
@click.argument("steps", nargs=-1, metavar="[STEP]...")
@click.option("--reason", metavar="TEXT", help="The reason, for the record.")
@click.option("--no-wait", is_flag=True, help="Do not wait until running steps are stopped.")
@json_option()
def cancel(
    run_text: str, steps: tuple[str, ...], reason: str | None, no_wait: bool, as_json: bool
) -> None:
    """Cancel a run, or only the named steps of it.

    Running steps are asked to stop, and killed with all that they started when they do not. When
    only steps are cancelled the run continues, and their dependents treat them as failed.
    """
    reason = reason or f"cancelled by {_user()}"

    def say(text: str, *, err: bool = False) -> None:
        if not as_json:
            click.echo(text, err=err)

    with open_installation() as installation:
        run_id = find_run(installation.ledger, run_text)
        done = cancel_run(
            installation,
            run_id,
            steps,
            reason,
            is_waiting=not no_wait,
            on_cancelled=lambda count, state: say(_count_text(run_id, steps, count, state)),
            on_wait=lambda count: say(f"{are(count, 'attempt')} being stopped", err=True),
        )
    if as_json:
        answer(json.dumps(_as_json(done, reason)))
        return
    for event in done.stopped:
        say(f"  {event.step} {stopped_text(event.fields)}")
    for attempt in done.stopping:
        say(f"  {attempt.step} is still being stopped by {attempt.worker}")


def _count_text(run_id: str, steps: Sequence[str], count: int | None, state: RunState) -> str:
    if steps:
        named = "step" if len(steps) == 1 else "steps"
        if not count:
            return f"run {run_id}: the {named} had ended already"
        others = f", {len(steps) - count} had ended already" if count < len(steps) else ""
        return f"run {run_id}: cancelled {counted(count, 'step')}{others}"
    if count is None:
        return f"run {run_id} has ended already: {state.value}"
    return f"run {run_id} is cancelled, with {counted(count, 'step')} that had not ended"


def _as_json(done: Cancellation, reason: str) -> dict[str, Any]:
    return {
        "run_id": done.run_id,
        "state": done.state.value,
        "cancelled": done.count or 0,
        **({"reason": reason} if done.count else {}),
        "stopped": [
            {"step": event.step, "attempt": event.attempt, **event.fields} for event in done.stopped
        ],
        "stopping": [
            {"step": attempt.step, "attempt": attempt.attempt, "worker": attempt.worker}
            for attempt in done.stopping
        ],
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # nobody in the machine's list of users, as in many containers
        return "orchestrator cancel"
