"""`orchestrator step`: one step of a past run again, here, with a terminal."""

from __future__ import annotations

import json
import pdb
import time
import traceback
from pathlib import Path
from types import TracebackType

import click

import orchestrator
from orchestrator.artifacts.plain import plain_value
from orchestrator.cli.answer import say
from orchestrator.cli.completion import run_argument, step_argument
from orchestrator.cli.params import TakesParams, ask_secrets, param_option
from orchestrator.installation import open_installation
from orchestrator.runs.finding import find_run
from orchestrator.wording import LINE_CHARS, listed

FAILED = 1
_PACKAGE = str(Path(orchestrator.__file__).parent)


@click.command(cls=TakesParams)
@run_argument()
@step_argument(required=True)
@click.option("--attempt", type=click.IntRange(min=1), help="Take the arguments of this attempt.")
@param_option("Another value for a param that the step reads by reference, or a secret.")
@click.option("--pdb", "with_pdb", is_flag=True, help="Start pdb where it fails.")
@click.pass_context
def step(
    ctx: click.Context,
    run_text: str,
    step: str,
    attempt: int | None,
    params: tuple[str, ...],
    with_pdb: bool,
) -> None:
    """Run one step of a past run again, in this terminal.

    It gets the arguments that it had; breakpoint() works. The run stays as it is: output and
    checkpoints go into a folder of their own.

    \b
    Exit codes: 0 succeeded, 1 failed, 2 cannot be run.
    """
    from orchestrator.runs.at_desk import prepare_step

    with open_installation() as installation:
        desk = prepare_step(
            installation,
            find_run(installation.ledger, run_text),
            step,
            attempt,
            pairs=params,
            ask=ask_secrets,
            say=say,
        )
    say(f"step {step} of run {desk.attempt.run_id}, as attempt {desk.attempt.attempt} was called")
    if desk.changed:
        say(f"changed since then: {listed(desk.changed, 5)}")
    began = time.monotonic()
    try:
        value = desk.run()
    except (Exception, SystemExit) as error:
        tail = _users_part(error.__traceback__)
        say("".join(traceback.format_exception(type(error), error, tail)).rstrip())
        if with_pdb:
            pdb.post_mortem(tail)
        say(f"failed after {time.monotonic() - began:.3f} s")
        ctx.exit(FAILED)
    say(f"succeeded in {time.monotonic() - began:.3f} s")
    if value is not None:
        if not desk.is_command:  # what that printed is its output
            click.echo(_value_text(value))
        say(f"the whole output: {desk.save(value)}")


def _users_part(tb: TracebackType | None) -> TracebackType | None:
    """Return the traceback from the user's first frame on; the whole one if there is none."""
    inner = tb
    while inner and inner.tb_frame.f_code.co_filename.startswith(_PACKAGE):
        inner = inner.tb_next
    return inner or tb


def _value_text(value: object) -> str:
    shown = plain_value(value)
    text = shown if isinstance(shown, str) else json.dumps(shown)
    return text if len(text) <= LINE_CHARS else f"{text[:LINE_CHARS]}…"
