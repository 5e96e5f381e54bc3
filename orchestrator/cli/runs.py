"""`orchestrator runs`: which runs there are."""

from __future__ import annotations

import json
from typing import Any

import click

from orchestrator.cli.answer import answer, json_option
from orchestrator.cli.params import labels_option
from orchestrator.installation import open_installation
from orchestrator.ledger.states import RunState
from orchestrator.runs.finding import NO_RUN, RunFilter, find_run, labels_in, list_runs
from orchestrator.times import duration_text, moment_us, rfc3339


@click.command()
@click.option("--pipeline", default="", metavar="NAME", help="Only of this pipeline.")
@click.option(
    "--state", type=click.Choice([state.value for state in RunState]), help="Only in this state."
)
@labels_option("Only with this label.")
@click.option("--since", metavar="TIME", help="Only created since: 12h, 7d, 2026-11-30.")
@click.option(
    "--limit",
    default=20,
    show_default=True,
    type=click.IntRange(min=1),
    help="How many rows to show.",
)
@click.option("--before", metavar="RUN", help="Only older than this run: the next page.")
@json_option()
def runs(
    pipeline: str,
    state: str | None,
    labels: dict[str, str],
    since: str | None,
    limit: int,
    before: str | None,
    as_json: bool,
) -> None:
    """List runs, newest first.

    Look closer at one with: orchestrator show RUN.
    """
    with open_installation() as installation:
        ledger = installation.ledger
        since_us = _since_us(since, ledger.now_us()) if since else 0
        wanted = RunFilter(pipeline, RunState(state) if state else None, labels, since_us)
        listed = [
            (run_id, ledger.run_fields(run_id))
            for run_id in list_runs(
                ledger, wanted, limit + 1, find_run(ledger, before) if before else ""
            )
        ]
    has_more, listed = len(listed) > limit, listed[:limit]
    rows: list[dict[str, Any]] = [
        {
            "run_id": run_id,
            "pipeline": fields["pipeline"],
            "state": fields["state"],
            "created_at": rfc3339(int(fields["created_at"])),
            "ended_at": rfc3339(_time(fields, "ended_at")),
            **({"labels": labels_in(fields)} if fields.get("labels") else {}),
            "duration": duration_text(int(fields["created_at"]), _time(fields, "ended_at")),
            "steps": {
                name[2:]: int(count)
                for name, count in fields.items()
                if name[:2] == "n:" and int(count)
            },
        }
        for run_id, fields in listed
    ]
    if as_json:
        answer(
            json.dumps(
                [{key: value for key, value in row.items() if key != "duration"} for row in rows]
            )
        )
        return
    for row in rows:
        counts = ", ".join(f"{count} {state}" for state, count in row["steps"].items())
        click.echo(
            f"{row['run_id']}  {row['state']:<9}  {row['duration']:>10}  {row['pipeline']} "
            f" ({counts})"
        )
    if has_more:
        click.echo(f"older ones: --before {rows[-1]['run_id']}", err=True)
    if not rows:
        has_filter = pipeline or state or labels or since or before
        click.echo("there is no such run" if has_filter else NO_RUN, err=True)


def _since_us(text: str, now_us: int) -> int:
    try:
        return moment_us(text, now_us)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--since") from None


def _time(fields: dict[str, str], name: str) -> int | None:
    return int(fields[name]) if name in fields else None
