"""What a worker refuses to start with: a store that is not the installation's, a name that another
worker bears."""

from __future__ import annotations

import os
import socket
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
from celery.signals import worker_init
from redis import Redis
from redis.exceptions import RedisError

from orchestrator.artifacts.identity import StoreId, marked_store, refuse_another
from orchestrator.errors import OrchestratorError, WorkerNameTaken
from orchestrator.ledger.connection import connect
from orchestrator.ledger.presence import (
    SIGN_OF_LIFE_S,
    WorkerCard,
    claim_name,
    last_sign_of_life,
    refuse_older,
)
from orchestrator.ledger.store_id import record_store, recorded_store
from orchestrator.settings.sources import current_settings
from orchestrator.worker.process import broker_url


def connect_refusals() -> None:
    """Have the worker look before it starts anything; called once, when the app is made."""
    worker_init.connect(_refuse)


def _refuse(sender: Any, **_: Any) -> None:
    settings = current_settings()
    try:
        with connect(broker_url(), retries=60) as client:
            if settings.parent_pid is not None:
                return  # a local worker shares folder and name with nobody
            refuse_older(client, settings.key_prefix)
            _settle_store(client, settings.key_prefix, settings.artifact_root)
            _claim_name(client, settings.key_prefix, sender.hostname)
    except OrchestratorError as fault:
        print(f"{type(fault).__name__}: {fault}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None  # Celery would go on after any other error
    except RedisError:
        return  # the server is away: Celery waits for it


def _settle_store(client: Redis, prefix: str, root: Path) -> None:
    """Mark and record the store if nobody has used one yet. Raises StoreRefused if this folder is
    another one."""
    refuse_another(_recorded(client, prefix), root)
    record_store(
        client, prefix, asdict(marked_store(root, current_settings().artifact_permissions))
    )
    # somebody with another folder may have been quicker
    refuse_another(_recorded(client, prefix), root)


def _recorded(client: Redis, prefix: str) -> StoreId | None:
    fields = recorded_store(client, prefix)
    return StoreId(**fields) if fields else None


def _claim_name(client: Redis, prefix: str, name: str) -> None:
    """Raise WorkerNameTaken if a worker of that name is there, and is not known to be gone."""
    card = WorkerCard(name, (), 0, "", socket.gethostname(), os.getpid())
    other = claim_name(client, prefix, card)
    if other is None or _is_gone(client, prefix, other):
        return  # one that was killed a moment ago gives way to its successor
    raise WorkerNameTaken(
        f"a worker named {name} runs already, as process {other.pid} of host {other.host}, and"
        " the two could not be told apart. Give this one another name: orchestrator worker --name"
        " NAME"
    )


def _is_gone(client: Redis, prefix: str, other: WorkerCard) -> bool:
    if other.host != socket.gethostname():
        return False
    if other.pid != os.getpid():
        try:
            return "worker" not in " ".join(psutil.Process(other.pid).cmdline())
        except psutil.Error:
            return True
    # In a container that was started again its process had the same id; so has that of another
    # container's.
    seen = last_sign_of_life(client, prefix, other.worker)
    time.sleep(1.5 * SIGN_OF_LIFE_S)
    now = last_sign_of_life(client, prefix, other.worker)
    return now is None or seen is None or now[0] == seen[0]
