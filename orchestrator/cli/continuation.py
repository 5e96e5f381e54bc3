"""What `resume` and `rerun` share: their options, and the run that goes on in the foreground or is
left to a server."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from orchestrator.cli.answer import answer, json_option, reserve_stdout, say
from orchestrator.cli.completion import run_argument
from orchestrator.cli.foreground import (
    finish,
    follow_to_the_end,
    logs_option,
    stop_signals,
    warn_of_slots,
    workers_option,
)
from orchestrator.cli.main import INTERRUPTED
from orchestrator.cli.params import TakesParams, ask_secrets, param_option
from orchestrator.installation import Installation, open_installation
from orchestrator.runs.workplace import workplace
from orchestrator.settings.model import Settings
from orchestrator.settings.sources import current_settings

if TYPE_CHECKING:
    from orchestrator.runs.continuing import Wanted

Found = TypeVar("Found")


@dataclass(frozen=True)
class Asked:
    """What the user asked for, beside the run."""

    from_steps: Sequence[str]
    params: Sequence[str]
    workers: int | None
    with_logs: bool
    detach: bool
    as_json: bool

    @property
    def wanted(self) -> Wanted:
        """How the run is to go on."""
        from orchestrator.runs.continuing import Wanted

        return Wanted(self.from_steps, self.params, say, ask_secrets)


@dataclass(frozen=True)
class Planned:
    """A run that goes on when `begin` is called. `last_event` is what it has so far."""

    run_id: str
    pipeline: str
    begin: Callable[[], object]
    last_event: str = "0"


def continuing_command(function: Callable[..., None]) -> click.Command:
    """Make a command of `function(ctx, run_text, asked)`."""

    @click.command(function.__name__, cls=TakesParams, help=function.__doc__)
    @run_argument()
    @click.option(
        "--from",
        "from_steps",
        multiple=True,
        metavar="STEP",
        help="Run this step and all below it again (repeatable).",
    )
    @param_option("Another value for a param.")
    @workers_option()
    @logs_option()
    @click.option(
        "--detach", is_flag=True, help="Do not wait: leave the run to the server's workers."
    )
    @json_option("Print the run's record as JSON at its end.")
    @click.pass_context
    def command(ctx: click.Context, /, run_text: str, **given: Any) -> None:
        function(ctx, run_text, Asked(**given))

    return command


def go_on(
    ctx: click.Context,
    asked: Asked,
    find: Callable[[Installation], Found],
    plan: Callable[[Installation, Settings, Found], Planned],
    *,
    too_early: str,
) -> None:
    """Find the run, plan what is to be done, begin that, and follow it to its end or leave it to
    the server.

    Whatever `find` refuses is refused before any worker is started. `too_early` is said when it is
    interrupted before anything began.
    """
    settings = current_settings()
    warn_of_slots(settings, asked.workers)
    if asked.detach and settings.redis_url is None:
        raise click.UsageError(
            "--detach leaves the run to a server's workers, and there is none: "
            "set ORCHESTRATOR_REDIS_URL."
        )
    with stop_signals() as stop_requests:
        try:
            if asked.detach:
                reserve_stdout()  # for the id
                with open_installation() as installation:
                    planned = plan(installation, settings, find(installation))
                    planned.begin()
                    card = {"run_id": planned.run_id, "pipeline": planned.pipeline}
                    answer(json.dumps(card) if asked.as_json else planned.run_id)
                return
            with workplace(settings, asked.workers, find) as (installation, local):
                planned = plan(
                    installation, local.settings if local else settings, find(installation)
                )
                record, code = follow_to_the_end(
                    installation,
                    local,
                    stop_requests,
                    planned.run_id,
                    planned.begin,
                    after=planned.last_event,
                    as_json=asked.as_json,
                    with_logs=asked.with_logs,
                )
        except KeyboardInterrupt:
            click.echo("interrupted" if stop_requests.is_repeated() else too_early, err=True)
            ctx.exit(INTERRUPTED)
    finish(ctx, record, code, asked.as_json)
