"""`orchestrator verify`: whether the record of a run holds what is promised of every run."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from orchestrator.cli.answer import answer, json_option
from orchestrator.cli.completion import run_argument
from orchestrator.installation import open_installation
from orchestrator.record.verification import Verification, verify_run
from orchestrator.runs.finding import find_run
from orchestrator.wording import and_more, counted

WRONG = 1
SHOWN = 100


@click.command()
@run_argument()
@json_option()
@click.pass_context
def verify(ctx: click.Context, run_text: str, as_json: bool) -> None:
    """Check the record of a run for contradictions.

    No step ran before its time or was committed twice, and no attempt is without an end. Of a run
    that goes on, what must hold already.

    \b
    Exit codes: 0 nothing is wrong, 1 a sentence for each violation.
    """
    with open_installation() as installation:
        verification = verify_run(installation.ledger, find_run(installation.ledger, run_text))
    if as_json:
        answer(json.dumps(asdict(verification)))
    else:
        click.echo(_verdict_text(verification))
    ctx.exit(WRONG if verification.violations else 0)


def _verdict_text(it: Verification) -> str:
    checked = (
        f"{counted(it.events, 'event')}, {counted(it.steps, 'step')},"
        f" {counted(it.attempts, 'attempt')}"
    )
    repairs = f" with {counted(it.repairs, 'repair')}" if it.repairs else ""
    found = counted(len(it.violations), "violation") if it.violations else "no violation"
    lines = [f"run {it.run_id} {it.state}: {checked}{repairs} checked, {found}"]
    lines += [f"  {sentence}" for sentence in it.violations[:SHOWN]]
    if len(it.violations) > SHOWN:
        lines.append(f"  …{and_more(len(it.violations) - SHOWN)}")
    lines += [f"  note: {sentence}" for sentence in it.remarks[:SHOWN]]
    return "\n".join(lines)
