"""Alerts of failed runs: sent once for each failure, at least; in threads that nobody waits for.

A coordinator claims the right to send them in the ledger, for a time. One that dies meanwhile
leaves the claim to run out, and another one sends. Targets that were reached are noted, and are not
sent to again when the others are retried.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.alerts.library import send
from orchestrator.alerts.message import Message, failure_message
from orchestrator.alerts.targets import AlertTarget, read_targets
from orchestrator.ledger.events import EventKind
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.values import AlertTry, RunUnknown
from orchestrator.settings.model import Settings

logger = logging.getLogger(__name__)

ALERTS_AT_ONCE = 8  # runs whose alerts are sent at the same time; others wait for the next round
HANGING_AT_ONCE = 3  # messages to one target that may hang before it is sent no more


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a target may take, when the others are retried, and how long a claim holds without a
    sign of life."""

    send_within_s: float = 30.0
    lease_s: float = 60.0
    retries_s: tuple[float, ...] = (5, 15, 60, 300, 900)


class AlertDelivery:
    """Sends the alerts that the ledger says are due."""

    pace = Pace()

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self._ledger = ledger
        self._settings = settings
        self._in_flight: dict[str, threading.Thread] = {}
        self._lock = threading.Lock()
        self._hanging: dict[str, list[threading.Thread]] = {}

    def offer(self, run_id: str, alert_at_us: int, now_us: int) -> None:
        """Begin to send the alerts of a run when they are due, and nobody here is at it already.
        Comes back at once."""
        if alert_at_us > now_us:
            return
        with self._lock:
            if run_id in self._in_flight or len(self._in_flight) >= ALERTS_AT_ONCE:
                return
            # A daemon, so that a service that never answers does not keep the process from ending.
            thread = threading.Thread(
                target=self._deliver, args=(run_id,), name=f"alert {run_id}", daemon=True
            )
            thread.start()
            self._in_flight[run_id] = thread

    def announce(self, message: Message) -> None:
        """Send what is not the failure of a run to the targets of the settings, once. Takes as long
        as they take."""
        for target in (
            read_targets(self._settings.alerts, os.environ) if self._settings.alerts else []
        ):
            if error := send(target, message):
                logger.warning(
                    "%s could not be alerted: %s: %s", target.label, message.title, error
                )

    def finish(self, within_s: float) -> bool:
        """Wait for what is in flight, and give whether all of it is done. What is not will be sent
        by another one."""
        limit = time.monotonic() + within_s
        with self._lock:
            threads = list(self._in_flight.values())
        for thread in threads:
            thread.join(max(0.0, limit - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def _deliver(self, run_id: str) -> None:
        try:
            alert_try = self._ledger.claim_alert(run_id, self.pace.lease_s)
            if alert_try:
                self._notify(run_id, alert_try, time.monotonic() + self.pace.lease_s)
        except RunUnknown:
            logger.warning("run %s is gone; no alert of its failure can be sent", run_id)
        except Exception:
            logger.exception("the alert of run %s failed; it is tried again", run_id)
        finally:
            with self._lock:
                del self._in_flight[run_id]

    def _notify(self, run_id: str, alert_try: AlertTry, claimed_until: float) -> None:
        of_pipeline = json.loads(self._ledger.run_fields(run_id).get("alerts", "[]"))
        written = [*self._settings.alerts, *of_pipeline]
        targets = read_targets(written, os.environ) if written else []
        waiting = [target for target in targets if target.mark not in alert_try.sent]
        if not waiting:
            self._ledger.report_alert(run_id, alert_try, [])
            return
        message = failure_message(self._ledger, run_id)
        answers: queue.SimpleQueue[tuple[AlertTarget, str]] = queue.SimpleQueue()
        threads = {target: self._begin(target, message, answers) for target in waiting}
        limit = time.monotonic() + self.pace.send_within_s
        failed: dict[AlertTarget, str] = {}
        while threads:
            try:
                target, error = answers.get(timeout=max(0.0, limit - time.monotonic()))
            except queue.Empty:
                break
            del threads[target]
            if error:
                failed[target] = error
                continue
            # Noted now, not when all have answered, so that it is not alerted again should we die
            # meanwhile.
            event = (EventKind.ALERT_SENT, {"target": target.label, "try": alert_try.number})
            left_s = max(0.0, claimed_until - time.monotonic())
            self._ledger.report_alert(run_id, alert_try, [event], [target.mark], left_s)
        for target, thread in threads.items():
            failed[target] = f"it gave no answer within {self.pace.send_within_s:g} s"
            if thread:
                self._hanging.setdefault(target.mark, []).append(thread)
        self._close(run_id, alert_try, failed)

    def _begin(
        self,
        target: AlertTarget,
        message: Message,
        answers: queue.SimpleQueue[tuple[AlertTarget, str]],
    ) -> threading.Thread | None:
        """Send to one target in a thread of its own, which puts the error, or an empty text, into
        `answers`."""
        hanging = [thread for thread in self._hanging.pop(target.mark, ()) if thread.is_alive()]
        if hanging:
            self._hanging[target.mark] = hanging
        if len(hanging) >= HANGING_AT_ONCE:
            answers.put(
                (target, f"{len(hanging)} earlier messages to it have not been answered yet")
            )
            return None
        thread = threading.Thread(
            target=lambda: answers.put((target, send(target, message))), daemon=True
        )
        thread.start()
        return thread

    def _close(self, run_id: str, alert_try: AlertTry, failed: Mapping[AlertTarget, str]) -> None:
        """Record which targets were not reached, and when they are tried again, if ever."""
        retries_s, number = self.pace.retries_s, alert_try.number
        retry_in_s = retries_s[number - 1] if failed and number <= len(retries_s) else None
        outlook: dict[str, Any] = (
            {"given_up": True} if retry_in_s is None else {"retry_in_s": retry_in_s}
        )
        events = [
            (
                EventKind.ALERT_FAILED,
                {"target": target.label, "error": error, "try": number, **outlook},
            )
            for target, error in failed.items()
        ]
        for target, error in failed.items():
            logger.warning(
                "run %s: %s could not be alerted that it failed: %s", run_id, target.label, error
            )
        self._ledger.report_alert(run_id, alert_try, events, (), retry_in_s)
