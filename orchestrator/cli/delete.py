"""`orchestrator delete`: remove runs that have ended, with their artifacts and logs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import click

from orchestrator.cli.answer import answer, json_option, say
from orchestrator.cli.params import labels_option
from orchestrator.errors import DeleteRefused
from orchestrator.installation import Installation, open_installation
from orchestrator.ledger.states import RunState
from orchestrator.runs.finding import RunFilter, find_run
from orchestrator.times import moment_us, rfc3339
from orchestrator.wording import counted, punctuated, size_text

ENDED = [state.value for state in RunState if state.is_ended]
REFUSED = 1


@click.command()
@click.argument("run_texts", metavar="[RUN]...", nargs=-1)
@click.option("--older-than", metavar="TIME", help="All that ended before: 12h, 30d, 2026-11-30.")
@click.option("--pipeline", default="", metavar="NAME", help="Only of this pipeline.")
@click.option("--state", type=click.Choice(ENDED), help="Only in this state.")
@labels_option("Only with this label.")
@click.option("--keep-artifacts", is_flag=True, help="Delete only the record and the logs.")
@click.option("--yes", is_flag=True, help="Delete them.")
@json_option()
@click.pass_context
def delete(
    ctx: click.Context,
    run_texts: tuple[str, ...],
    older_than: str | None,
    pipeline: str,
    state: str | None,
    labels: dict[str, str],
    keep_artifacts: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Delete runs that have ended, with their artifacts and logs.

    Without --yes nothing is deleted: you see which runs would go, and what that frees. A run is
    kept while it goes on, and while a rerun that has taken over its outputs is kept.

    \b
    Exit codes: 0 deleted (or shown), 1 a run that you named is kept.
    """
    wanted = RunFilter(pipeline, RunState(state) if state else None, labels)
    if not run_texts and not older_than:
        raise click.UsageError("Name runs, or say which: --older-than 30d.")
    if run_texts and (older_than or wanted != RunFilter()):
        raise click.UsageError("Name runs, or say which by options, not both.")
    with open_installation() as installation:
        finished = _finish_interrupted(installation) if yes else []
        rows = _delete(
            installation,
            _chosen(installation, run_texts, older_than, wanted),
            keeps_artifacts=keep_artifacts,
            is_dry=not yes,
        )
    if as_json:
        answer(
            json.dumps(
                {"dry_run": not yes, "finished": finished, "runs": list(map(_as_json, rows))}
            )
        )
    else:
        _show(rows, finished, is_dry=not yes)
    ctx.exit(REFUSED if run_texts and any(row["refusal"] for row in rows) else 0)


def _chosen(
    installation: Installation, run_texts: Sequence[str], older_than: str | None, wanted: RunFilter
) -> list[str]:
    from orchestrator.runs.deleting import ended_runs

    ledger = installation.ledger
    if older_than is None:
        return [find_run(ledger, text) for text in run_texts]
    try:
        before_us = moment_us(older_than, ledger.now_us())
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--older-than") from None
    return list(ended_runs(ledger, wanted, before_us))


def _delete(
    installation: Installation, run_ids: Iterable[str], *, keeps_artifacts: bool, is_dry: bool
) -> list[dict[str, Any]]:
    """Return what became of each run, or would."""
    from orchestrator.artifacts.faults import StoreUnusable
    from orchestrator.runs.deleting import deletable, delete_run

    rows = []
    for run in deletable(installation, run_ids, keeps_artifacts=keeps_artifacts):
        row = asdict(run)
        if not is_dry and not run.refusal:
            try:
                delete_run(installation, run.run_id, keeps_artifacts=keeps_artifacts)
            except DeleteRefused as error:
                row["refusal"] = str(error)
            except StoreUnusable as error:
                row["refusal"] = f"{punctuated(error)} The next orchestrator delete --yes goes on."
        rows.append(row)
    return rows


def _finish_interrupted(installation: Installation) -> list[str]:
    from orchestrator.runs.deleting import finish_deletions

    ledger, settings = installation.ledger, installation.settings
    finished = finish_deletions(ledger, settings, ledger.now_us())
    return [run_id for run_id, fault in finished if not fault]


def _show(rows: Sequence[dict[str, Any]], finished: Sequence[str], *, is_dry: bool) -> None:
    for run_id in finished:
        say(f"{run_id}: its deletion was interrupted, and is finished now")
    going = [row for row in rows if not row["refusal"]]
    for row in going:
        files = f", {size_text(row['artifact_bytes'])} in {counted(row['files'], 'file')}"
        click.echo(
            f"{row['run_id']}  {row['state'].value:<9}  {row['pipeline']} "
            f" ({size_text(row['redis_bytes'])} in Redis{files if row['files'] else ''})"
        )
    for row in rows:
        if row["refusal"]:
            say(f"kept: {row['refusal']}")
    freed = size_text(sum(row["redis_bytes"] for row in going))
    artifacts = sum(row["artifact_bytes"] for row in going)
    more = f" and {size_text(artifacts)} of artifacts" if artifacts else ""
    what = f"{counted(len(going), 'run')}, {freed} in Redis{more}"
    if not going:
        say("nothing to delete" if is_dry else "nothing was deleted")
    elif is_dry:
        click.echo(f"{what} would go. Nothing is deleted yet: add --yes")
    else:
        click.echo(f"deleted {what}")


def _as_json(row: dict[str, Any]) -> dict[str, Any]:
    ended_at_us = row.pop("ended_at_us")
    return {**row, "ended_at": rfc3339(ended_at_us), "refusal": row["refusal"] or None}
