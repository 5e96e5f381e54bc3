"""The coordinator: what no worker does, done every half second, by any number of coordinators at
once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from celery import Celery

from orchestrator.coordinator.duties import Done, Rounds
from orchestrator.errors import FormatUnknown
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.presence import (
    CoordinatorCard,
    announce_coordinator,
    own_card,
    withdraw_coordinator,
)
from orchestrator.ledger.values import RunUnknown
from orchestrator.messages.former import take_over_former_queues
from orchestrator.outages import EXPECTED, Outage
from orchestrator.repair.contact import Contact
from orchestrator.runs.deleting import INTERRUPTED_S, finish_deletions
from orchestrator.runs.visiting import LEAST_PAUSE_S, Visitor
from orchestrator.settings.model import Settings

logger = logging.getLogger(__name__)

SEARCH_S = 60.0  # between two looks for runs that no coordinator knows of


class Coordinator:
    """Does what is due in runs and repairs what was lost. Every action is atomic in the ledger:
    there is no leader."""

    def __init__(
        self,
        ledger: Ledger,
        app: Celery,
        settings: Settings,
        *,
        observe: Callable[[Done], object] = lambda done: None,
    ) -> None:
        """`observe` is called each time that a duty was done."""
        self._ledger = ledger
        self._poll_interval_s = settings.poll_interval_s
        self._visitor = Visitor(ledger, app, settings)
        self._outage = Outage(logger, "runs cannot be checked")
        self._card = own_card()
        self.name = self._card.name
        self._rounds = Rounds(
            [
                SignOfLife(ledger, self._card),
                ServerClockLook(self._visitor.contact),
                FormerQueues(ledger, settings),
                UnwatchedRuns(ledger),
                InterruptedDeletions(ledger, settings),
                ActiveRuns(ledger, self._visitor.visit),
            ],
            observe,
        )

    def round(self) -> float:
        """Do all duties that are due, and return the seconds until the next round."""
        return self._rounds.go(self._poll_interval_s)

    def serve(self, stopped: threading.Event) -> None:
        """Go round until `stopped` is set. A round that fails (Redis restarts) is logged and tried
        again."""
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
            self._visitor.finish_alerts()
            try:
                withdraw_coordinator(self._ledger.client, self._ledger.prefix, self._card)
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
        announce_coordinator(self.ledger.client, self.ledger.prefix, self.card)


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
            logger.warning(
                "%d messages lay in queues of a former version; they are in those of today now",
                moved,
            )


@dataclass
class UnwatchedRuns:
    """Finds runs that have not ended and that no coordinator watches: each time among the newest
    ones, and among some of the older ones, which are all looked at in turn."""

    ledger: Ledger
    name: str = "runs that no coordinator watches are found"
    pace_s: float = SEARCH_S
    _older_than: str = ""

    def do(self, now: float) -> None:
        older_than = self._watch("")
        if self._older_than:
            with suppress(RunUnknown):  # it was deleted: from the newest on again
                older_than = self._watch(self._older_than)
        self._older_than = older_than

    def _watch(self, before: str) -> str:
        found, last = self.ledger.unwatched_runs(before)
        for run_id in found:
            logger.warning(
                "run %s was watched by no coordinator (its submitter may have died while starting"
                " it); watching it now",
                run_id,
            )
            self.ledger.watch_run(run_id)
        return last


@dataclass
class InterruptedDeletions:
    """Finishes deletions of runs that were interrupted, where the artifacts are here."""

    ledger: Ledger
    settings: Settings
    name: str = "interrupted deletions of runs are finished"
    pace_s: float = SEARCH_S

    def do(self, now: float) -> None:
        before_us = self.ledger.now_us() - round(INTERRUPTED_S * 1e6)
        for run_id, fault in finish_deletions(self.ledger, self.settings, before_us):
            if fault:
                logger.warning("the deletion of run %s cannot be finished here: %s", run_id, fault)
            else:
                logger.info("the deletion of run %s had been interrupted; it is finished", run_id)


@dataclass
class ActiveRuns:
    """Visits every run that has not ended. A run whose visit fails keeps no other one from its
    own."""

    ledger: Ledger
    visit: Callable[[str], float]
    name: str = "active runs are visited"
    pace_s: float = 0.0
    _troubles: dict[str, Outage] = field(default_factory=dict)
    _left: set[str] = field(default_factory=set)  # to another version

    def do(self, now: float) -> float | None:
        pauses_s = [self._visit(run_id) for run_id in self.ledger.active_runs()]
        return min((pause_s for pause_s in pauses_s if pause_s is not None), default=None)

    def _visit(self, run_id: str) -> float | None:
        try:
            pause_s = self.visit(run_id)
        except RunUnknown:
            return None  # it was deleted, or is not started yet
        except FormatUnknown as error:
            if run_id not in self._left:
                self._left.add(run_id)
                logger.warning("%s", error)
            return None
        except EXPECTED:
            raise  # the server is away, for all runs
        except Exception as error:
            self._troubles.setdefault(
                run_id, Outage(logger, f"run {run_id} cannot be checked")
            ).begins(error)
            return None
        if run_id in self._troubles:
            self._troubles.pop(run_id).is_over()
        return pause_s
