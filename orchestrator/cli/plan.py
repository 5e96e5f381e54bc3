"""`orchestrator plan` and `orchestrator schema`: what can be said without a server."""

from __future__ import annotations

import json

import click

from orchestrator.cli.answer import answer, json_option
from orchestrator.cli.completion import target_argument
from orchestrator.cli.params import TakesParams, param_option
from orchestrator.runs.loading import load_definition, plan_of
from orchestrator.settings.sources import current_settings


@click.command(cls=TakesParams)
@target_argument()
@param_option()
@click.option("--celery", is_flag=True, help="Show the chains and chords that it compiles to.")
@click.option("--full", is_flag=True, help="Show lists whole.")
@click.option(
    "--format", "drawing", type=click.Choice(["mermaid", "dot"]), help="Print a drawing instead."
)
@json_option()
def plan(
    target: str,
    params: tuple[str, ...],
    celery: bool,
    full: bool,
    drawing: str | None,
    as_json: bool,
) -> None:
    """Show the steps of a pipeline, and which can run side by side.

    Nothing runs, and no server is needed. A param may be left out when the steps do not depend on
    its value.
    """
    from orchestrator.plan.drawing import dot_text, mermaid_text
    from orchestrator.plan.view import plan_text, plan_view
    from orchestrator.runs.submission import plan_message_bytes

    settings = current_settings()
    compiled, compile_s = plan_of(load_definition(target), params, settings, is_open=True)
    if drawing:
        answer((mermaid_text if drawing == "mermaid" else dot_text)(compiled), nl=False)
        return
    view = plan_view(
        compiled,
        largest_message_bytes=plan_message_bytes(compiled, settings),
        compile_s=round(compile_s, 6),
    )
    if as_json:
        answer(json.dumps(view))
    else:
        answer(plan_text(compiled, view, full=full, in_celery=celery), nl=False)


@click.command()
def schema() -> None:
    """Print the JSON Schema of pipeline files, for editors."""
    from orchestrator.definition.document import pipeline_file_schema

    answer(json.dumps(pipeline_file_schema(), indent=2))
