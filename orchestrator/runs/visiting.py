"""Doing what is due in one run: by a coordinator in its round, or by the process that follows
the run."""

from __future__ import annotations

from celery import Celery

from orchestrator.alerts.delivery import AlertDelivery
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.presence import present_coordinators
from orchestrator.ledger.values import RunUnknown
from orchestrator.messages.dispatch import Dispatcher
from orchestrator.repair.contact import Contact
from orchestrator.repair.neighbours import Neighbours
from orchestrator.repair.repair import Repair
from orchestrator.settings.model import Settings

ALERTS_LIMIT_S = 10.0
LEAST_PAUSE_S = 0.02  # between two visits


class Visitor:
    """Does what is due in runs, repairs what was lost, and sends alerts. One object for as long as
    somebody visits: it knows for how long the server has answered it."""

    def __init__(
        self, ledger: Ledger, app: Celery, settings: Settings, *, is_follower: bool = False
    ) -> None:
        """A follower visits one run, and leaves alerts to those who visit all: they may know of
        targets that it does not."""
        self._is_follower = is_follower
        self._ledger, self._dispatcher = ledger, Dispatcher(app, ledger)
        self._poll_interval_s = settings.poll_interval_s
        self._alerts = AlertDelivery(ledger, settings)
        self._neighbours = Neighbours(ledger, app, settings, self._alerts.announce)
        self._repair = Repair(ledger, settings, self._note_loss)

    @property
    def contact(self) -> Contact:
        """What is known of the server."""
        return self._repair.contact

    @property
    def leaves_alerts(self) -> bool:
        """Whether somebody else sends the alerts of failed runs."""
        return self._is_follower and bool(
            present_coordinators(self._ledger.client, self._ledger.prefix)
        )

    def visit(self, run_id: str) -> float:
        """Do what is due in one run, and return the seconds until it is worth another visit. Raises
        RunUnknown."""
        report = self._repair.inspect(run_id)
        self._dispatcher.send(run_id, report.ready)
        if report.is_over:
            self._ledger.unwatch_run(run_id)
            self._repair.forget(run_id)
        if report.state is None:
            raise RunUnknown(run_id)
        if report.is_judged and report.alert_at_us is not None and not self.leaves_alerts:
            self._alerts.offer(run_id, report.alert_at_us, report.now_us)
        self._dispatcher.send(run_id, self._repair.act_on(run_id, report))
        due_in_s = report.next_due_in_s
        if due_in_s is None or report.expired:  # a lease that is not judged yet is due all the time
            return self._poll_interval_s
        return min(self._poll_interval_s, due_in_s)

    def take_over_from(self, run_id: str, worker: str, died: str) -> None:
        """Have others go on with what a worker ran that is known to be gone; `died` says of what,
        as a predicate."""
        self._dispatcher.send(run_id, self._repair.take_over_from(run_id, worker, died))

    def finish_alerts(self, within_s: float = ALERTS_LIMIT_S) -> None:
        """Wait for the alerts that are being sent now; what does not get through is left to the
        next coordinator."""
        self._alerts.finish(within_s)

    def _note_loss(self, run_id: str, queue: str) -> None:
        if not self.leaves_alerts:  # else who serves all runs finds it lost, too
            self._neighbours.note_loss(run_id, queue)
