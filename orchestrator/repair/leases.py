"""Leases that ran out: whether their attempts are lost, of what, and which worker goes on with
their steps."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from orchestrator.attempt_id import AttemptId
from orchestrator.error_card import ErrorCard
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.presence import last_sign_of_life
from orchestrator.ledger.values import DueReport, ExpiredLease, Ready, Replaced
from orchestrator.repair.contact import Contact
from orchestrator.settings.model import Settings

logger = logging.getLogger(__name__)


class LeaseRepair:
    """Judges leases of one installation, once the server has answered for long enough."""

    def __init__(self, ledger: Ledger, settings: Settings, contact: Contact) -> None:
        self._ledger, self._settings, self._contact = ledger, settings, contact

    def judge(self, run_id: str, report: DueReport) -> Iterator[Ready]:
        """Report the attempts as lost whose leases ran out; yield what is to be sent for them."""
        if self._contact.is_calm:
            for lease in report.expired:
                yield self._take_over(run_id, lease, report.now_us)

    def take_over_from(self, run_id: str, worker: str, died: str) -> Iterator[Ready]:
        """Have others go on with what a worker ran that is known to be gone, before its leases run
        out; `died` says of what: "was killed by signal 9 (SIGKILL)". No other worker of that name
        may have begun anything yet.
        """
        message = f"its worker {worker} {died}"
        detail = {"error": ErrorCard("WorkerLost", message).to_json(), "found": message}
        for attempt in self._ledger.leased(run_id):
            if attempt.worker == worker and not attempt.is_stopping:
                answer = self._ledger.report_lost(
                    AttemptId(run_id, attempt.step, attempt.attempt), detail, owner=worker
                )
                if isinstance(answer, Replaced):
                    yield answer.ready

    def _take_over(self, run_id: str, lease: ExpiredLease, now_us: int) -> Ready:
        kind, message = self._cause(lease)
        found = (
            f"the lease of worker {lease.worker} ran out {(now_us - lease.expired_at_us) / 1e6:.1f}"
            " s ago"
        )
        detail = {"error": ErrorCard(kind, message).to_json(), "found": found}
        answer = self._ledger.report_lost(
            AttemptId(run_id, lease.step, lease.attempt),
            detail,
            expected_us=self._contact.clock.expected_us(),
        )
        if not isinstance(answer, Replaced) or lease.is_stopping:
            # it was renewed, or another coordinator was faster; or nobody goes on with it
            return Ready()
        logger.warning(
            "run %s: attempt %d of step %s is lost: %s", run_id, lease.attempt, lease.step, message
        )
        return answer.ready

    def _cause(self, lease: ExpiredLease) -> tuple[str, str]:
        lease_s = self._settings.lease_s
        sign = last_sign_of_life(self._ledger.client, self._ledger.prefix, lease.worker)
        renewed = lease.expired_at_us / 1e6 - lease_s
        if sign is not None and sign[1].incarnation not in ("", lease.incarnation):
            return (
                "WorkerLost",
                f"its worker {lease.worker} ended in the middle of it and was started again",
            )
        if sign is not None and sign[0] > renewed + lease_s / 2:
            return (
                "WorkerHung",
                (
                    f"its worker {lease.worker} hangs: it lives, and has not renewed the lease for"
                    f" {lease_s:g} s"
                ),
            )
        return (
            "HostLost",
            f"its worker {lease.worker} is gone: host lost, no sign of life for {lease_s:g} s",
        )
