"""The life of an attempt: claim, log, commit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.attempt_id import AttemptId
from orchestrator.ledger.calls import LedgerCalls
from orchestrator.ledger.replies import claim_in, ready_in
from orchestrator.ledger.states import Outcome, StepState
from orchestrator.ledger.values import (
    Claim,
    Commit,
    Refusal,
)

DEFAULT_LEASE_S = 6.0


class Attempts(LedgerCalls):
    """The life of an attempt: claim, log, commit."""

    def claim(
        self,
        attempt: AttemptId,
        claim_id: str,
        worker: str,
        lease_s: float = DEFAULT_LEASE_S,
    ) -> Claim | Refusal:
        """Ask to begin an attempt, and hold it for `lease_s`. The same `claim_id` gets the same
        answer again."""
        reply = self._call_for(
            attempt,
            "claim",
            claim_id,
            worker,
            round(lease_s * 1_000_000),
        )
        return claim_in(reply)

    def commit(
        self,
        attempt: AttemptId,
        token: int,
        worker: str,
        outcome: Outcome,
        *,
        detail: Mapping[str, Any] | None = None,
        output: str = "",
        follower: tuple[str, int] = ("", 0),
        retry_in_s: float | None = None,
        code: tuple[str, str] | None = None,
    ) -> Commit | Refusal:
        """Record how an attempt ended; joins, cancellations below it and events happen in the same
        call.

        `follower` is the step and attempt that Celery publishes next of its own accord. `token` 0
        is for who ended an attempt without having claimed it; then `worker` is its owner. `code` is
        an id of the files that it ran and their digests as JSON, to be kept with the run. May be
        said twice: the second answer is as good as the first.
        """
        reply = self._call_for(
            attempt,
            "commit",
            token,
            worker,
            outcome.value,
            json.dumps({"outcome": outcome.value, **(detail or {})}, separators=(",", ":")),
            output,
            follower[0],
            follower[1],
            "" if retry_in_s is None else round(retry_in_s * 1_000_000),
            *(code or ()),
        )
        if not reply[0]:
            return Refusal(reply[1])
        return Commit(StepState(reply[1]), bool(reply[2]), ready_in(reply[3]))

    def append_log(
        self,
        attempt: AttemptId,
        token: int,
        lines: Sequence[str],
        limit: int,
        before: int | None = None,
    ) -> bool:
        """Add lines to an attempt's log, of which the last `limit` are kept. False: the token is no
        longer current.

        `before` is how many lines the attempt had written before these; with it the call may be
        repeated.
        """
        place = "" if before is None else before
        return bool(self._call_for(attempt, "log", token, limit, place, *lines))
