"""The coordinator: what no worker does, done every half second, by any number of coordinators at once."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from celery import Celery

from orchestrator.alerts.delivery import AlertDelivery
from orchestrator.coordinator.duties import Done, Rounds
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
from orchestrator.repair.contact import Contact
from orchestrator.repair.neighbours import Neighbours
from orchestrator.repair.repair import Repair
from orchestrator.settings.model import Settings

logger = logging.getLogger(__name__)

LEAST_PAUSE_S = 0.02
ALERTS_LIMIT_S = 10.0
SEARCH_S = 60.0  # between two looks for runs that no coordinator knows of


class Coordinator:
    """Does what is due in runs and repairs what was lost. Every action is atomic in the ledger: there is no leader."""

    def __init__(
        self,
        ledger: Ledger,
        app: Celery,
        settings: Settings,
        *,
        is_follower: bool = False,
        observe: Callable[[Done], object] = lambda done: None,
    ) -> None:
        """A follower does the work for one run, and leaves it to those who work for all to send alerts.

        `observe` is told of each time that a duty was done.
        """
        self._is_follower = is_follower
        self._ledger = ledger
        self._app = app
        self._poll_interval_s = settings.poll_interval_s
        self._alerts = AlertDelivery(ledger, settings)
        self._neighbours = Neighbours(ledger, app, settings, self._alerts.announce)
        self._repair = Repair(ledger, settings, self._note_loss)
        self._outage = Outage(logger, "runs cannot be checked")
        host, python = socket.gethostname(), f"{sys.version_info.major}.{sys.version_info.minor}"
        self.name = f"{host}-{os.getpid()}-{secrets.token_hex(2)}"
        self._rounds = Rounds(
            [
                SignOfLife(ledger, CoordinatorCard(self.name, host, os.getpid(), python)),
                ServerClockLook(self._repair.contact),
                FormerQueues(ledger, settings),
                UnwatchedRuns(ledger),
                ActiveRuns(ledger, self.visit),
            ],
            observe,
        )

    def visit(self, run_id: str) -> float:
        """Do what is due in one run, and return the seconds until it is worth another visit. Raises RunUnknown."""
        report = self._repair.inspect(run_id)
        self._dispatch(run_id, report.ready)
        if report.is_over:
            self._ledger.unwatch_run(run_id)
            self._repair.forget(run_id)
        if report.state is None:
            raise RunUnknown(run_id)
        if report.is_judged and report.alert_at_us is not None and not self.leaves_telling():
            self._alerts.offer(run_id, report.alert_at_us, report.now_us)
        self._dispatch(run_id, self._repair.act_on(run_id, report))
        due_in_s = report.next_due_in_s
        if due_in_s is None or report.expired:  # a lease that is not judged yet is due all the time
            return self._poll_interval_s
        return min(self._poll_interval_s, due_in_s)

    def _note_loss(self, run_id: str, queue: str) -> None:
        if not self.leaves_telling():  # else who serves all runs finds it lost, too
            self._neighbours.note_loss(run_id, queue)

    def leaves_telling(self) -> bool:
        """Whether somebody else sends the alerts of failed runs, who may know of targets that we do not."""
        return self._is_follower and bool(present_coordinators(self._ledger.client, self._ledger.prefix))

    def take_over_from(self, run_id: str, worker: str, died: str) -> None:
        """Have others go on with what a worker ran that is known to be gone; `died` tells of what, as a predicate."""
        self._dispatch(run_id, self._repair.take_over_from(run_id, worker, died))

    def _dispatch(self, run_id: str, ready: tuple[Chain, ...]) -> None:
        dispatch_ready(self._app, self._ledger, run_id, ready)

    def round(self) -> float:
        """Do all duties that are due, and return the seconds until the next round."""
        return self._rounds.go(self._poll_interval_s)

    def finish(self, limit_s: float = ALERTS_LIMIT_S) -> None:
        """Wait for the alerts that are being sent now; what does not get through is left to the next coordinator."""
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


@dataclass
class SignOfLife:
    """Says that this coordinator is there, so that followers leave alerts to it."""

    ledger: Ledger
    card: CoordinatorCard
    name: str = "the coordinator gives a sign of life"
    pace_s: float = 0.0

    def do(self, now: float) -> None:
        announce_coordinator(self.ledger.client, self.ledger.prefix, self.card.name, self.card)


@dataclass
class ServerClockLook:
    """Looks whether the server's clock was put, also while no run is active."""

    contact: Contact
    name: str = "the server's clock is looked at"
    pace_s: float = 0.0

    def do(self, now: float) -> None:
        self.contact.look_at_clock()


@dataclass
class FormerQueues:
    """Takes over what lies in the queues of a former version."""

    ledger: Ledger
    settings: Settings
    name: str = "messages in queues of a former version are taken over"
    pace_s: float = SEARCH_S

    def do(self, now: float) -> None:
        if moved := take_over_former_queues(self.ledger, self.settings):
            logger.warning("%d messages lay in queues of a former version; they are in those of today now", moved)


@dataclass
class UnwatchedRuns:
    """Finds runs that have not ended and that no coordinator watches."""

    ledger: Ledger
    name: str = "runs that no coordinator watches are found"
    pace_s: float = SEARCH_S

    def do(self, now: float) -> None:
        for run_id in self.ledger.unwatched_runs():
            logger.warning(
                "run %s was watched by no coordinator (its submitter may have died while starting it); watching it now",
                run_id,
            )
            self.ledger.watch_run(run_id)


@dataclass
class ActiveRuns:
    """Visits every run that has not ended. A run whose visit fails keeps no other one from its own."""

    ledger: Ledger
    visit: Callable[[str], float]
    name: str = "active runs are visited"
    pace_s: float = 0.0
    _troubles: dict[str, Outage] = field(default_factory=dict)

    def do(self, now: float) -> float | None:
        pauses_s = [self._visit(run_id) for run_id in self.ledger.active_runs()]
        return min((pause_s for pause_s in pauses_s if pause_s is not None), default=None)

    def _visit(self, run_id: str) -> float | None:
        try:
            pause_s = self.visit(run_id)
        except RunUnknown:
            return None  # it was deleted, or is not started yet
        except EXPECTED:
            raise  # the server is away, for all runs
        except Exception as error:
            self._troubles.setdefault(run_id, Outage(logger, f"run {run_id} cannot be checked")).begins(error)
            return None
        if run_id in self._troubles:
            self._troubles.pop(run_id).is_over()
        return pause_s
