"""How the main process of a worker and its children are set up when Celery starts them."""

from __future__ import annotations

import gc
import os
import signal
from typing import Any

from celery.signals import worker_init, worker_process_init, worker_ready, worker_shutdown
from celery.utils.log import get_logger

from orchestrator.processes.dispositions import begin_with_own_signals, heeded
from orchestrator.processes.linux import adopt_orphans
from orchestrator.processes.temporary import (
    make_temporary_folder,
    remove_temporary_folder,
    use_temporary_folder,
)
from orchestrator.settings.sources import current_settings
from orchestrator.worker.celery_inside.pool import slots_of
from orchestrator.worker.failures import note_memory_events
from orchestrator.worker.interruption import listen_in_child
from orchestrator.worker.log_file import forget_children_but, prepare_file
from orchestrator.worker.memory_groups import prepare_groups, remove_leftovers
from orchestrator.worker.own_descriptors import keep_those_of_pool
from orchestrator.worker.renewal import make_renewable
from orchestrator.worker.strays import kill_strays, start_guardian, trust_guardian
from orchestrator.worker.thread_shares import share_cores

logger = get_logger(__name__)

_main_pid = 0
_worker: Any = None
_temporary = ""  # folder


def connect_signals() -> None:
    """Have the main process and its children set up when Celery starts them; called once, when the
    app is made."""
    worker_init.connect(_set_up_main)
    worker_process_init.connect(_set_up_child)
    worker_shutdown.connect(kill_strays)  # its children have ended by then


def _set_up_main(sender: Any, **_: Any) -> None:
    global _main_pid, _worker, _temporary
    _main_pid, _worker = os.getpid(), sender
    begin_with_own_signals()
    if signal.SIGHUP not in heeded(signal.SIGHUP):
        # by nohup; Celery would restart the worker when the terminal closes
        worker_ready.connect(_ignore_hangup, weak=False)
    _temporary = make_temporary_folder()
    worker_shutdown.connect(_remove_temporary_folder, weak=False)
    prepare_groups()
    worker_shutdown.connect(remove_leftovers, weak=False)
    note_memory_events()
    if not adopt_orphans():
        logger.warning(
            "this system has no subreapers: what a step leaves behind when its process dies goes on"
            " running"
        )
        return
    start_guardian(_temporary, current_settings().log_format)


def _remove_temporary_folder(**_: Any) -> None:
    remove_temporary_folder(_temporary)


def _ignore_hangup(**_: Any) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _set_up_child(sender: Any, **_: Any) -> None:
    if os.getpid() == _main_pid or not _main_pid:
        # the solo pool sends this signal in the main process
        return
    gc.freeze()  # what came by the fork stays: no collection need look at it, nor copy its pages
    listen_in_child()
    forget_children_but(())  # of the main process, which this one has inherited
    prepare_file()
    share_cores(slots_of(_worker))
    make_renewable()
    keep_those_of_pool()
    use_temporary_folder(_temporary)
    if adopt_orphans():
        trust_guardian()
