"""The `orchestrator` command. Each subcommand is loaded when it is called, so that none pays for
the others."""

from __future__ import annotations

import gc
import importlib
import io
import sys
from typing import Any

import click
from click.shell_completion import CompletionItem

from orchestrator.errors import OrchestratorError, names_hint
from orchestrator.ledger.values import RunUnknown
from orchestrator.processes.dispositions import begin_with_own_signals
from orchestrator.settings.sources import withdraw_secrets

USAGE, INTERRUPTED = 2, 130

COMMANDS = {
    "run": "orchestrator.cli.run:run",
    "submit": "orchestrator.cli.submit:submit",
    "resume": "orchestrator.cli.resume:resume",
    "rerun": "orchestrator.cli.rerun:rerun",
    "cancel": "orchestrator.cli.cancel:cancel",
    "delete": "orchestrator.cli.delete:delete",
    "plan": "orchestrator.cli.plan:plan",
    "schema": "orchestrator.cli.plan:schema",
    "runs": "orchestrator.cli.runs:runs",
    "show": "orchestrator.cli.show:show",
    "why": "orchestrator.cli.why:why",
    "step": "orchestrator.cli.step:step",
    "verify": "orchestrator.cli.verify:verify",
    "events": "orchestrator.cli.events:events",
    "logs": "orchestrator.cli.logs:logs",
    "worker": "orchestrator.cli.services:worker",
    "serve": "orchestrator.cli.services:serve",
    "flower": "orchestrator.cli.services:flower",
    "init": "orchestrator.cli.init:init",
    "completion": "orchestrator.cli.completion:completion",
    "doctor": "orchestrator.cli.doctor:doctor",
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the commands that begin so, without loading each for its help."""
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return [CompletionItem(name) for name in COMMANDS if name.startswith(incomplete)]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"there is no command {args[0]!r}.{names_hint(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except OrchestratorError as error:
            click.echo(f"{type(error).__name__}: {error}", err=True)
            ctx.exit(USAGE)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(INTERRUPTED)
        except RunUnknown as error:
            click.echo(
                f"RunNotFound: run {error} is not on the server any more: somebody has deleted it",
                err=True,
            )
            ctx.exit(USAGE)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="celery-pipeline-orchestrator")
def main() -> None:
    """Run machine-learning pipelines on Celery and Redis.

    FILE is a Python file, a YAML or JSON file, or a module; FILE:NAME picks one of several
    pipelines in it. RUN is a run id, the beginning of one, or "last".
    """
    gc.enable()
    begin_with_own_signals()
    withdraw_secrets()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # what steps wrote may hold what no terminal can show
            stream.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    sys.exit(main())
