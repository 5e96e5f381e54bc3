"""`orchestrator doctor`: what is configured, reachable, served, and what is wrong."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from orchestrator.cli.answer import answer, json_option
from orchestrator.cli.health import store
from orchestrator.cli.health.alerts import targets_of
from orchestrator.cli.health.checks import MACHINE_CHECKS, ROLES, SERVER_CHECKS, findings_of
from orchestrator.installation import open_installation
from orchestrator.redis_url import masked_url
from orchestrator.settings.model import Settings
from orchestrator.settings.sources import current_settings

_MARKS = {"ok": "ok     ", "warning": "warning", "fault": "FAULT  "}


@click.command()
@json_option()
@click.option(
    "--accept-store",
    is_flag=True,
    help="Make this host's artifact folder the installation's.",
)
@click.option(
    "--self",
    "role",
    type=click.Choice(list(ROLES)),
    help="Check only what this host's service needs.",
)
@click.pass_context
def doctor(ctx: click.Context, as_json: bool, accept_store: bool, role: str | None) -> None:
    """Check what is configured, reachable and served.

    \b
    Exit codes: 0 nothing is wrong, 1 there is a fault.
    """
    settings = current_settings()
    if accept_store:
        with open_installation() as installation:
            store.accept_store(installation)
    of_machine, of_server = ROLES[role] if role else (MACHINE_CHECKS, SERVER_CHECKS)
    findings = list(findings_of(settings, of_machine, of_server))
    if as_json:
        answer(
            json.dumps(
                {
                    "settings": _shown_settings(settings),
                    "findings": [asdict(item) for item in findings],
                }
            )
        )
    else:
        for item in findings:
            click.echo(f"{_MARKS[item.level]}  {item.what}: {item.found}")
    ctx.exit(1 if any(item.level == "fault" for item in findings) else 0)


def _shown_settings(settings: Settings) -> dict[str, object]:
    shown = settings.model_dump(mode="json")
    if settings.redis_url:
        shown["redis_url"] = masked_url(settings.redis_url)
    shown["alerts"] = [target.label for target in targets_of(settings)]
    return shown
