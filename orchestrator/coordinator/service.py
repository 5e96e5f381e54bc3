"""The coordinator's round: what no worker does, done every half second, by any number of coordinators at once."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
import threading
import time

from celery import Celery

from orchestrator.alerts.delivery import AlertDelivery
from orchestrator.coordinator.neighbours import Neighbours
from orchestrator.coordinator.repair import Repair
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.presence import (
    CoordinatorCard,
    announce_coordinator,
    present_coordinators,
    withdraw_coordinator,
)
from orchestrator.ledger.values import Chain, RunUnknown
from orchestrator.messages.dispatch import dispatch_ready
from orchestrator.messages.former import take_over_former_queues
from orchestrator.outages import EXPECTED, Outage
from orchestrator.settings.model import Settings

logger = logging.getLogger(__name__)

LEAST_PAUSE_S = 0.02
ALERTS_LIMIT_S = 10.0
SEARCH_S = 60.0  # between two looks for runs that no coordinator knows of


class Coordinator:
    """Does what is due in runs and mends what was lost. Every action is atomic in the ledger: there is no leader."""

    def __init__(self, ledger: Ledger, app: Celery, settings: Settings, *, is_follower: bool = False) -> None:
        """A follower does the work for one run, and leaves it to those who work for all to tell people."""
        self._is_follower = is_follower
        self._ledger = ledger
        self._app = app
        self._settings = settings
        self._poll_interval_s = settings.poll_interval_s
        self._alerts = AlertDelivery(ledger, settings)
        self._neighbours = Neighbours(ledger, app, settings, self._alerts.announce)
        self._repair = Repair(ledger, settings, self._note_loss)
        self._next_search = 0.0
        self._outage = Outage(logger, "runs cannot be tended")
        self._troubles: dict[str, Outage] = {}  # of single runs
        host, python = socket.gethostname(), f"{sys.version_info.major}.{sys.version_info.minor}"
        self.name = f"{host}-{os.getpid()}-{secrets.token_hex(2)}"
        self._card = CoordinatorCard(self.name, host, os.getpid(), python)

    def tend(self, run_id: str) -> float:
        """Do the round for one run, and give the seconds until it is worth another one. Raises RunUnknown."""
        tended = self._repair.tend(run_id)
        self._dispatch(run_id, tended.ready)
        if tended.is_over:
            self._ledger.forget_active(run_id)
            self._repair.forget(run_id)
        if tended.state is None:
            raise RunUnknown(run_id)
        if tended.is_judged and tended.alert_at_us is not None and not self.leaves_telling():
            self._alerts.offer(run_id, tended.alert_at_us, tended.now_us)
        self._dispatch(run_id, self._repair.mend(run_id, tended))
        due_in_s = tended.next_due_in_s
        if due_in_s is None or tended.expired:  # a lease that is not judged yet is due all the time
            return self._poll_interval_s
        return min(self._poll_interval_s, due_in_s)

    def _note_loss(self, run_id: str, queue: str) -> None:
        if not self.leaves_telling():  # else who serves all runs finds it lost, too
            self._neighbours.note_loss(run_id, queue)

    def leaves_telling(self) -> bool:
        """Whether somebody else tells people of failed runs, who may know of targets that we do not."""
        return self._is_follower and bool(present_coordinators(self._ledger.client, self._ledger.prefix))

    def take_over_from(self, run_id: str, worker: str, died: str) -> None:
        """Have others go on with what a worker ran that is known to be gone; `died` tells of what, as a predicate."""
        self._dispatch(run_id, tuple(self._repair.take_over_from(run_id, worker, died)))

    def _dispatch(self, run_id: str, ready: tuple[Chain, ...]) -> None:
        dispatch_ready(self._app, self._ledger, run_id, ready)

    def round(self) -> float:
        """Do the round for every run that has not ended, and give the seconds until the next one."""
        announce_coordinator(self._ledger.client, self._ledger.prefix, self.name, self._card)
        self._repair.look_at_clock()
        pause_s = self._poll_interval_s
        if time.monotonic() >= self._next_search:
            self._next_search = time.monotonic() + SEARCH_S
            if moved := take_over_former_queues(self._ledger, self._settings):
                logger.warning("%d messages lay in queues of a former version; they are in those of today now", moved)
            for run_id in self._ledger.forgotten_runs():
                logger.warning("run %s was in nobody's care, as when who started it died just then", run_id)
                self._ledger.take_care_of(run_id)
        for run_id in self._ledger.active_runs():
            try:
                pause_s = min(pause_s, self.tend(run_id))
            except RunUnknown:
                pass  # it was deleted, or is not started yet
            except EXPECTED:
                raise  # the server is away, for all runs
            except Exception as error:
                self._troubles.setdefault(run_id, Outage(logger, f"run {run_id} cannot be tended")).begins(error)
            else:
                if run_id in self._troubles:
                    self._troubles.pop(run_id).is_over()
        return pause_s

    def finish(self, limit_s: float = ALERTS_LIMIT_S) -> None:
        """Wait for people to be told what is being told them now; what does not get through is left to the next one."""
        self._alerts.finish(limit_s)

    def serve(self, stopped: threading.Event) -> None:
        """Go round until `stopped` is set. A round that fails (Redis restarts) is logged and tried again."""
        try:
            while not stopped.is_set():
                pause_s = self._poll_interval_s
                try:
                    pause_s = self.round()
                    self._outage.is_over()
                except Exception as error:
                    self._outage.begins(error)
                stopped.wait(max(pause_s, LEAST_PAUSE_S))
        finally:
            self.finish()
            try:
                withdraw_coordinator(self._ledger.client, self._ledger.prefix, self.name)
            except Exception as error:
                logger.warning("the coordinator could not be signed off: %s", error)
