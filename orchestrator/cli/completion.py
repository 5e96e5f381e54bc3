"""Shell completion: the script for a shell, and what RUN and STEP can be."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import click
from click.shell_completion import CompletionItem, get_completion_class

SHELLS = ("bash", "zsh", "fish")
RUNS_OFFERED = 20
VARIABLE = "_ORCHESTRATOR_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    It completes commands, options, files, runs and steps.

    \b
    bash:  eval "$(orchestrator completion bash)"     in ~/.bashrc
    zsh:   eval "$(orchestrator completion zsh)"      in ~/.zshrc
    fish:  orchestrator completion fish | source      in ~/.config/fish/config.fish
    """
    found = get_completion_class(shell)
    assert found is not None
    from orchestrator.cli.main import main

    click.echo(found(main, {}, "orchestrator", VARIABLE).source())


def run_argument(name: str = "run_text") -> Callable[[Any], Any]:
    """Return the argument RUN, completed by the newest runs."""
    return click.argument(name, metavar="RUN", shell_complete=_runs)


def target_argument() -> Callable[[Any], Any]:
    """Return the argument FILE[:NAME], completed by files."""
    return click.argument(
        "target",
        metavar="FILE[:NAME]",
        shell_complete=lambda ctx, param, incomplete: [CompletionItem(incomplete, type="file")],
    )


def step_argument(*, required: bool) -> Callable[[Any], Any]:
    """Return the argument STEP, completed by the steps of the run before it."""
    return click.argument("step", required=required, shell_complete=_steps)


def _runs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from orchestrator.installation import open_installation

    items = [CompletionItem("last", help="the newest run")]
    with suppress(Exception), open_installation(0) as installation:  # a shell shows no errors
        ledger = installation.ledger
        for run_id in ledger.recent_runs(RUNS_OFFERED):
            fields = ledger.run_fields(run_id)
            items.append(CompletionItem(run_id, help=f"{fields['pipeline']}, {fields['state']}"))
    return [item for item in items if item.value.startswith(incomplete)]


def _steps(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from orchestrator.installation import open_installation
    from orchestrator.runs.finding import find_run

    with suppress(Exception), open_installation(0) as installation:
        run_id = find_run(installation.ledger, ctx.params["run_text"])
        steps = installation.ledger.entries(run_id)
        return [CompletionItem(step) for step in steps if step.startswith(incomplete)]
    return []
