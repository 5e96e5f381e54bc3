"""Which artifact store the runs of this installation use: `{prefix}:store`, a hash with id, host
and folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import redis

_FIELDS = ("id", "host", "folder")


def recorded_store(client: redis.Redis, prefix: str) -> dict[str, str]:
    """Return id, host and folder of the installation's store, as its first user has recorded
    them; empty if nobody has."""
    fields = cast(dict[str, str], client.hgetall(f"{prefix}:store"))
    return {name: fields.get(name, "") for name in _FIELDS} if fields.get("id") else {}


def record_store(
    client: redis.Redis, prefix: str, fields: Mapping[str, str], *, replaces: bool = False
) -> None:
    """Record the store of the installation; with `replaces` even if there is one, else who comes
    first has its way."""
    if replaces or client.hsetnx(f"{prefix}:store", "id", fields["id"]):
        client.hset(f"{prefix}:store", mapping=dict[Any, Any](fields))
