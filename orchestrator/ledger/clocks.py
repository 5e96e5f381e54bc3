"""What is due by the server's clock, and messages that are gone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from orchestrator.attempt_id import AttemptId
from orchestrator.ledger.calls import LedgerCalls
from orchestrator.ledger.replies import due_report_in, ready_in
from orchestrator.ledger.server_clock import ClockStep
from orchestrator.ledger.values import (
    DueReport,
    Ready,
)


class Clocks(LedgerCalls):
    """What is due by the server's clock, and messages that are gone."""

    def advance_due(
        self,
        run_id: str,
        limit: int = 500,
        *,
        expected_us: int | None = None,
        clock_step: int = 0,
        away_s: float = 0.0,
    ) -> DueReport:
        """Do what is due in a run, at most `limit` things, and find what the caller has to look
        into.

        With `expected_us`, what the server's clock should show (`ServerClock`), nothing is judged
        while it shows something else, nor before the run is shifted by the last step of the clock
        (`clock_step`). The server was away from the caller for `away_s` just before: that does not
        count for deadline and queue timeouts.
        """
        words = ("" if expected_us is None else expected_us, clock_step, round(away_s * 1e6))
        return due_report_in(self._call(run_id, "advance_due", limit, *words))

    def shift(self, run_id: str, step: ClockStep, lease_s: float) -> bool:
        """Shift the times of a run by a step of the server's clock, unless that was done before."""
        return bool(self._call(run_id, "shift", *step, round(lease_s * 1_000_000)))

    def resend(self, attempt: AttemptId, sent_at_us: int, detail: Mapping[str, Any]) -> Ready:
        """Return the chain of a queued step whose message is gone, to one caller alone; nothing if
        there is no need."""
        text = json.dumps(detail, separators=(",", ":"))
        return ready_in(self._call_for(attempt, "resend", sent_at_us, text))

    def report_shared_queue(self, run_id: str, queue: str, reader: str) -> None:
        """Record that somebody else reads a queue of the run's steps. May stand twice when an
        answer was lost."""
        self._call(run_id, "queue_shared", json.dumps({"queue": queue, "reader": reader}))
