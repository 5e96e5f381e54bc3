"""Cancelling a run, or steps of it."""

from __future__ import annotations

from collections.abc import Sequence
from secrets import token_hex
from typing import cast

from redis.exceptions import ResponseError

from orchestrator.ledger.calls import LedgerCalls
from orchestrator.ledger.replies import chains_in
from orchestrator.ledger.values import (
    Chain,
    StepUnknown,
)


class Cancelling(LedgerCalls):
    """Cancelling a run, or steps of it."""

    def cancel(self, run_id: str, reason: str) -> int | None:
        """End a run: every step that has not ended is cancelled. Return their count, None if the
        run had ended.

        Workers that run some of them are nudged to stop them now, rather than when they renew their
        leases next.
        """
        count, *workers = self._call(run_id, "cancel", reason, token_hex(6))
        self._nudge(workers)
        return None if count < 0 else cast(int, count)

    def cancel_steps(
        self, run_id: str, steps: Sequence[str], reason: str
    ) -> tuple[int, tuple[Chain, ...]]:
        """Cancel steps of a run, which goes on; for what is below them they have failed.

        Returns how many had not ended, and the chains to dispatch. Raises StepUnknown.
        """
        try:
            count, chains, *workers = self._call(
                run_id, "cancel_steps", reason, token_hex(6), *steps
            )
        except ResponseError as error:
            if str(error).startswith("UNKNOWN"):
                raise StepUnknown(str(error).removeprefix("UNKNOWN ")) from None
            raise
        self._nudge(workers)
        return count, chains_in(chains)
