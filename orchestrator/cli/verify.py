"""`orchestrator verify`: whether the record of a run holds what is promised of every run."""

from __future__ import annotations

import json

import click

from orchestrator.cli.answer import answer, json_option
from orchestrator.cli.session import find_run, open_session
from orchestrator.ledger.verification import Verification, verify_run

WRONG = 1
SHOWN = 100


@click.command()
@click.argument("run_text", metavar="RUN")
@json_option()
@click.pass_context
def verify(ctx: click.Context, run_text: str, as_json: bool) -> None:
    """Check the record of a run: no step ran before its time or was committed twice, no attempt is without an end.

    Ends with 0 when nothing is wrong, else with 1 and a sentence for each thing that is. A run that goes on is checked
    for what must hold already.
    """
    with open_session() as session:
        verification = verify_run(session.ledger, find_run(session.ledger, run_text))
    if as_json:
        answer(json.dumps(_as_json(verification)))
    else:
        click.echo(_told(verification))
    ctx.exit(WRONG if verification.violations else 0)


def _told(it: Verification) -> str:
    checked = f"{_counted(it.events, 'event')}, {_counted(it.steps, 'step')}, {_counted(it.attempts, 'attempt')}"
    repairs = f" with {_counted(it.repairs, 'repair')}" if it.repairs else ""
    found = _counted(len(it.violations), "violation") if it.violations else "no violation"
    lines = [f"run {it.run_id} {it.state}: {checked}{repairs} checked, {found}"]
    lines += [f"  {sentence}" for sentence in it.violations[:SHOWN]]
    if len(it.violations) > SHOWN:
        lines.append(f"  … and {len(it.violations) - SHOWN:,} more")
    lines += [f"  note: {sentence}" for sentence in it.remarks[:SHOWN]]
    return "\n".join(lines)


def _as_json(it: Verification) -> dict[str, object]:
    return {
        "run_id": it.run_id,
        "state": it.state.value,
        "events": it.events,
        "steps": it.steps,
        "attempts": it.attempts,
        "repairs": it.repairs,
        "violations": list(it.violations),
        "remarks": list(it.remarks),
    }


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
