"""Attempts that workers hold: renewing their leases, and how they are over without an end of their
own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.attempt_id import AttemptId
from orchestrator.error_card import ErrorCard
from orchestrator.ledger.calls import LedgerCalls
from orchestrator.ledger.replies import replaced_in
from orchestrator.ledger.states import Outcome
from orchestrator.ledger.values import (
    BackOff,
    OwnedAttempt,
    Refusal,
    Replaced,
)


class Leases(LedgerCalls):
    """Attempts that workers hold: renewing their leases, and how they are over without an end of
    their own."""

    def renew(self, held: Sequence[OwnedAttempt], lease_s: float) -> dict[OwnedAttempt, str]:
        """Renew the leases of a worker's attempts, of any runs, in one round trip.

        Returns those that are to be stopped, with the reason: "cancelled", or "fenced" when
        somebody took over.
        """
        by_run: dict[str, list[OwnedAttempt]] = {}
        for attempt in held:
            by_run.setdefault(attempt.run_id, []).append(attempt)
        if not by_run:
            return {}
        lease_us = round(lease_s * 1_000_000)
        replies = self._script.calls(
            [
                (
                    self.key(run_id, "run"),
                    [
                        "renew",
                        lease_us,
                        *(
                            word
                            for attempt in attempts
                            for word in (attempt.step, attempt.attempt, attempt.owner)
                        ),
                    ],
                )
                for run_id, attempts in by_run.items()
            ]
        )
        return {
            attempts[place - 1]: why
            for attempts, reply in zip(by_run.values(), replies, strict=True)
            for place, why in zip(reply[::2], reply[1::2], strict=True)
        }

    def report_lost(
        self,
        attempt: AttemptId,
        detail: Mapping[str, Any],
        *,
        token: int = 0,
        owner: str = "",
        expected_us: int | None = None,
    ) -> Replaced | Refusal:
        """Record that an attempt is over without an end of its own: it is replaced, or its step
        fails when it has lost as many as it may. Who neither has the token nor is its owner is
        believed only when the lease has run out. An attempt whose step was cancelled is over with
        that; then the state is `cancelled` and nothing is ready.

        `detail` has error (type, message) and found. May be said twice by the token or the owner;
        of many who only saw the lease run out, one is believed.
        """
        words = {"outcome": Outcome.LOST.value, **detail}
        return self._replace(attempt, token, owner, "lost", words, expected_us)

    def hand_over(
        self, attempt: AttemptId, reason: str, *, token: int = 0, owner: str = ""
    ) -> Replaced | Refusal:
        """Give a running attempt up, so that another worker goes on with the step; no failure, and
        no lost attempt."""
        detail = {"outcome": Outcome.HANDED_OVER.value, "reason": reason}
        return self._replace(attempt, token, owner, Outcome.HANDED_OVER.value, detail)

    def put_back(
        self,
        attempt: AttemptId,
        detail: Mapping[str, Any],
        back_off: BackOff,
        *,
        token: int = 0,
        owner: str = "",
        error: ErrorCard | None = None,
    ) -> Replaced | Refusal:
        """Give a running attempt back because of something that is not a fault of its step: it is
        tried again when it is due, and the attempt costs neither retries nor lost attempts.

        `detail` has reason and host. With `error` (type, message) the step may have begun, and one
        that may lose no attempt (`lost_attempts` 1) fails with it instead. May be said twice by the
        token.
        """
        said = {"outcome": Outcome.PUT_BACK.value, **detail}
        instead = (
            json.dumps({"outcome": Outcome.FAILED.value, "error": error.to_json(), **detail})
            if error
            else ""
        )
        times = (round(back_off.first_s * 1e6), round(back_off.longest_s * 1e6))
        text = json.dumps(said, separators=(",", ":"))
        reply = self._call_for(
            attempt,
            "put_back",
            token,
            owner,
            *times,
            text,
            instead,
        )
        return replaced_in(reply)

    def _replace(
        self,
        attempt: AttemptId,
        token: int,
        owner: str,
        kind: str,
        detail: Mapping[str, Any],
        expected_us: int | None = None,
    ) -> Replaced | Refusal:
        text = json.dumps(detail, separators=(",", ":"))
        reply = self._call_for(attempt, "lost", token, owner, kind, text, expected_us or "")
        return replaced_in(reply)

    def report_stopped(
        self, held: OwnedAttempt, detail: Mapping[str, Any], *, ended_alone: bool = False
    ) -> None:
        """Record that an attempt which had to be stopped is gone with all it started; `detail` says
        how.

        One that `ended_alone`, and may say so itself, is recorded only if its step was cancelled
        meanwhile.
        """
        text = json.dumps(detail, separators=(",", ":"))
        self._call_for(held.id, "stopped", held.owner, text, int(ended_alone))
