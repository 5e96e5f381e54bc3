"""The safety net: leases that ran out, and messages that are gone. Every repair is an event that
says what was found.

Nothing here decides by itself. What looks lost is reported to the ledger, which knows whether it
still is; so any number of coordinators may look at the same time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.replies import joined
from orchestrator.ledger.values import DueReport, Ready
from orchestrator.repair.contact import Contact
from orchestrator.repair.leases import LeaseRepair
from orchestrator.repair.messages import MessageRepair
from orchestrator.settings.model import Settings

logger = logging.getLogger(__name__)


class Repair:
    """The safety net of one coordinator."""

    def __init__(
        self,
        ledger: Ledger,
        settings: Settings,
        on_loss: Callable[[str, str], object] = lambda run_id, queue: None,
    ) -> None:
        """`on_loss` is given the run and the queue of each message that is found to be lost."""
        self._ledger, self._settings = ledger, settings
        self.contact = Contact(ledger, settings)
        self._leases = LeaseRepair(ledger, settings, self.contact)
        self._messages = MessageRepair(ledger, settings, self.contact, on_loss)
        self._pardoned: dict[
            str, int
        ] = {}  # run -> the last absence of the server that it knows of

    def inspect(self, run_id: str) -> DueReport:
        """Do what is due in a run, and note whether the server answers as it should; `act_on` is to
        follow."""
        began, clock = time.monotonic(), self.contact.clock
        self.contact.look_at_clock()
        try:
            is_pardoned = self._pardoned.get(run_id, 0) == clock.absences
            report = self._ledger.advance_due(
                run_id,
                expected_us=clock.expected_us(),
                clock_step=clock.last_step,
                away_s=0.0 if is_pardoned else clock.away_s,
            )
            if report.is_judged:
                self._pardoned[run_id] = clock.absences
            for step in clock.steps:
                if step.number > report.clock_step and self._ledger.shift(
                    run_id, step, self._settings.lease_s
                ):
                    logger.warning(
                        "run %s: its times were shifted by %.1f s", run_id, step.by_us / 1e6
                    )
        except Exception:
            self.contact.note_failure()
            raise
        self.contact.note_contact(began, report.now_us)
        return report

    def act_on(self, run_id: str, report: DueReport) -> Ready:
        """Look into what `inspect` found in a run, and return the chains to send."""
        lost, unsent = self._leases.judge(run_id, report), self._messages.send_again(run_id, report)
        return joined([*lost, *unsent])

    def take_over_from(self, run_id: str, worker: str, died: str) -> Ready:
        """Have others go on with what a worker ran that is known to be gone; see `LeaseRepair`."""
        return joined(self._leases.take_over_from(run_id, worker, died))

    def forget(self, run_id: str) -> None:
        """Forget what is known of a run that is over."""
        self._messages.forget(run_id)
        self._pardoned.pop(run_id, None)
