"""Checks of the Redis server."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.cli.health.finding import Finding
from orchestrator.installation import Installation
from orchestrator.redis_url import masked_url


def check_server(installation: Installation) -> Iterator[Finding]:
    info = installation.ledger.client.info()
    kind = info.get("server_name", "redis")
    number = info.get("valkey_version") or info.get("redis_version")
    yield Finding(
        "ok", "server", f"{kind} {number} at {masked_url(installation.redis_url)} answers"
    )
    if info.get("role") == "slave":
        yield Finding("fault", "role", "a replica, which takes no writes. Name its primary.")


def check_persistence(installation: Installation) -> Iterator[Finding]:
    info = installation.ledger.client.info()
    if not info.get("aof_enabled"):
        yield Finding(
            "warning",
            "append-only file",
            "off: a restart of the server loses runs. Set appendonly yes.",
        )
    else:
        yield Finding("ok", "append-only file", "on")
    for name, what in (
        ("aof_last_write_status", "append-only file"),
        ("rdb_last_bgsave_status", "last snapshot"),
    ):
        if info.get(name, "ok") != "ok":
            found = f"the server could not write it ({info[name]}): its disk is full or fails"
            yield Finding("fault", what, found)
    policy = info.get("maxmemory_policy")
    if policy != "noeviction" and int(info.get("maxmemory", 0)):
        yield Finding(
            "fault", "maxmemory-policy", f"{policy}: the server may drop runs. Set noeviction."
        )
    else:
        yield Finding("ok", "maxmemory-policy", str(policy))
