"""The leases of a worker's running attempts and the clocks of their timeouts, kept by threads of
its main process.

User code runs in the children and cannot delay them. In a pool of threads, and in the solo pool, it
can: a step that holds the interpreter's lock for longer than a lease loses it.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from celery import bootsteps
from celery.signals import worker_shutdown
from celery.utils.log import get_logger

from orchestrator.ledger.connection import connect
from orchestrator.ledger.ledger import Ledger
from orchestrator.outages import Outage
from orchestrator.worker.celery_inside.pool import slots_of
from orchestrator.worker.main.memory_watch import watch_memory
from orchestrator.worker.main.running import CANCELLED, FENCED, TIMED_OUT, running
from orchestrator.worker.main.stopping import pass_on_terminations, stop_soon
from orchestrator.worker.process import broker_url, current_process, pool_type_of
from orchestrator.worker.strays import watch_pool
from orchestrator.worker.thread_shares import share_cores

logger = get_logger(__name__)

SHORTEST_LOOK_S = 0.01
LONGEST_LOOK_S = 1.0  # so long an attempt that could not be stopped waits for the next try


class Leases(bootsteps.StartStopStep):  # type: ignore[misc]
    """Renews the leases of all running attempts in one call, and stops those that the answer names.

    The threads outlive this step's stop: while the worker waits for its last steps, and for what is
    left of those that are being stopped, their leases are renewed on.
    """

    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, **options: Any) -> None:
        self._over = threading.Event()
        super().__init__(parent, **options)

    def start(self, parent: Any) -> None:
        worker_shutdown.connect(self._end, weak=False)
        watch_pool(parent.pool)
        pool_type = pool_type_of(parent)
        if pool_type != "prefork":
            share_cores(slots_of(parent))
            logger.warning(
                "a pool of type %s cannot end a step: timeouts, cancelling and draining only ask it"
                " to stop, and a step that holds the interpreter's lock can lose its lease",
                pool_type,
            )
        threading.Thread(
            target=watch_memory, args=(parent.app,), name="memory", daemon=True
        ).start()
        for target in (self._renew_for_ever, self._watch_timeouts):
            threading.Thread(
                target=target, args=(parent,), name=target.__name__.strip("_"), daemon=True
            ).start()

    def _end(self, **_: Any) -> None:
        self._over.set()
        running.timeout_set.set()

    def _renew_for_ever(self, parent: Any) -> None:
        process = current_process(parent.app)
        settings = process.settings
        # A client of its own that gives up soon: through another connection it goes before the last
        # renewal is over.
        ledger = Ledger(
            connect(broker_url(), retries=0, timeout_s=settings.lease_s / 2), settings.key_prefix
        )
        nudged = ledger.nudge_key(parent.hostname)
        outage = Outage(logger, "leases cannot be renewed")
        while not self._over.is_set() or running.held():
            began = time.monotonic()
            try:
                self._renew(parent, ledger)
                pause_s = settings.renewal_interval_s - (time.monotonic() - began)
                outage.is_over()
                ledger.client.blpop([nudged], max(0.05, pause_s))
            except Exception as error:
                outage.begins(error)
                # also at the end, while attempts are still being stopped
                time.sleep(settings.renewal_interval_s / 4)

    def _renew(self, parent: Any, ledger: Ledger) -> None:
        attempts = {attempt.held: attempt for attempt in running.held()}
        if not attempts:
            return
        to_stop = ledger.renew(list(attempts), current_process(parent.app).settings.lease_s)
        for held, attempt in attempts.items():
            reason = to_stop.get(held)
            if reason == CANCELLED or (reason == FENCED and attempt.is_fenced):
                stop_soon(parent.app, attempt, reason)
            # A child that has committed is fenced as well for the moment that it needs to return.
            attempt.is_fenced = reason == FENCED

    def _watch_timeouts(self, parent: Any) -> None:
        while not self._over.is_set():
            pause_s = LONGEST_LOOK_S
            pass_on_terminations()
            for attempt in running:
                left_s = attempt.time_left_s()
                if left_s is None:
                    continue
                if left_s <= 0:
                    stop_soon(parent.app, attempt, TIMED_OUT)
                else:
                    # Exact though the call may not have begun: until then its clock stands, and all
                    # of it is left.
                    pause_s = min(pause_s, max(left_s, SHORTEST_LOOK_S))
            running.timeout_set.wait(pause_s)
            running.timeout_set.clear()
