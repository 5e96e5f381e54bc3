"""What one worker process holds: its ledger client, its artifact store, its capture of output."""

from __future__ import annotations

import multiprocessing
import os
import secrets
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.process import AuthenticationString  # type: ignore[attr-defined]
from typing import Any

from celery import Celery

from orchestrator.artifacts.values import ArtifactStore
from orchestrator.errors import SettingsInvalid
from orchestrator.ledger.connection import connect
from orchestrator.ledger.ledger import Ledger
from orchestrator.messages.dispatch import Dispatcher
from orchestrator.settings.model import Settings
from orchestrator.settings.sources import current_settings
from orchestrator.worker.child.capture import Capture, capture_for_process

_INCARNATION_VARIABLE = "ORC_WORKER_INCARNATION"  # for children that do not come by fork
INCARNATION = os.environ.setdefault(_INCARNATION_VARIABLE, secrets.token_hex(4))
"""Distinguishes this worker's claims from those of one of the same name before a restart."""

# of a ledger call, up to 2 s apart: every call may be said twice, so a worker can wait out a
# restart
RETRIES = 60


@dataclass(frozen=True)
class WorkerProcess:
    app: Celery
    settings: Settings
    ledger: Ledger
    store: ArtifactStore

    @cached_property
    def dispatcher(self) -> Dispatcher:
        return Dispatcher(self.app, self.ledger)

    @cached_property
    def capture(self) -> Capture:
        """Made at the first step, in the thread that runs it, which shows the kind of pool."""
        return capture_for_process(self.ledger, self.settings)


def broker_url() -> str:
    """Return the server that this worker serves. Raises SettingsInvalid when none is set."""
    url = current_settings().redis_url
    if url is None:
        raise SettingsInvalid(
            "ORCHESTRATOR_REDIS_URL is not set, and a worker needs a server, such as"
            " redis://localhost:6379/0. `orchestrator worker` starts an embedded one when there is"
            " none."
        )
    return url


def pool_type_of(worker: Any) -> str:
    """Return what kind of pool a Celery worker has, as `--pool` names it: prefork, threads, solo,
    …"""
    return str(worker.pool_cls.__module__).rpartition(".")[2].replace("thread", "threads")


_held: dict[int, WorkerProcess] = {}


def current_process(app: Celery) -> WorkerProcess:
    """Return the holdings of this process, made anew after a fork."""
    pid = os.getpid()
    held = _held.get(pid)
    if held is None:
        _held.clear()
        _allow_children()
        settings = current_settings()
        ledger = Ledger(connect(broker_url(), retries=RETRIES), settings.key_prefix)
        # A local worker shares the folder with nobody, and its user may delete it at any time.
        store = ArtifactStore.in_folder(
            settings.artifact_root,
            is_marked=settings.parent_pid is None,
            permissions=settings.artifact_permissions,
        )
        held = WorkerProcess(app, settings, ledger, store)
        _held[pid] = held
    return held


def _allow_children() -> None:
    """Let steps start processes: a prefork child counts as daemonic, and multiprocessing gives such
    none.

    The note of the worker's main process stays as it is, so its children end with it as before. The
    key gets the type that multiprocessing hands on to processes it spawns; billiard's is refused
    there.
    """
    config = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    config["daemon"] = False
    config["authkey"] = AuthenticationString(config["authkey"])
