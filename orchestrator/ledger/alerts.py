"""The right to send alerts of a failed run, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from secrets import token_hex
from typing import Any

from orchestrator.ledger.calls import LedgerCalls
from orchestrator.ledger.values import (
    AlertTry,
)


class Alerts(LedgerCalls):
    """The right to send alerts of a failed run, and what came of it."""

    def claim_alert(self, run_id: str, lease_s: float) -> AlertTry | None:
        """Return the right to send a run's alerts, for `lease_s`; None when there is
        nothing to send now."""
        number, *rest = self._call(run_id, "alert", round(lease_s * 1_000_000))
        return AlertTry(number, tuple(json.loads(rest[0])), rest[1]) if number else None

    def report_alert(
        self,
        run_id: str,
        alert_try: AlertTry,
        events: Sequence[tuple[str, Mapping[str, Any]]],
        sent: Sequence[str] = (),
        retry_in_s: float | None = None,
    ) -> None:
        """Record what came of sending alerts: events with their details, `sent` (added to what was
        sent before), and when to try again (None: no more). May be said several times for one try,
        as its targets answer.
        """
        words = [
            word
            for event, detail in events
            for word in (event, json.dumps(detail, separators=(",", ":")))
        ]
        retry = "" if retry_in_s is None else round(retry_in_s * 1_000_000)
        which = (token_hex(4), alert_try.incident, alert_try.number)
        self._call(run_id, "alerted", *which, retry, json.dumps(list(sent)), *words)
