"""Cancelling a run, or steps of it."""

from __future__ import annotations

from collections.abc import Sequence
from secrets import token_hex
from typing import cast

from redis.exceptions import ResponseError

from orchestrator.ledger.calls import LedgerCalls
from orchestrator.ledger.pages import in_pages
from orchestrator.ledger.replies import joined, ready_in
from orchestrator.ledger.values import (
    Ready,
    StepUnknown,
)


class Cancelling(LedgerCalls):
    """Cancelling a run, or steps of it."""

    def cancel(self, run_id: str, reason: str) -> int | None:
        """End a run: every step that has not ended is cancelled. Return their count, None if the
        run had ended.

        It is decided at once: from the first call on nothing of the run begins. Who calls dies
        before the last one leaves the rest to a coordinator.

        Workers that run some of them are nudged to stop them now, rather than when they renew their
        leases next.
        """
        cancel_id, is_going_on = token_hex(6), 1
        while is_going_on:
            count, is_going_on, *workers = self._call(run_id, "cancel", reason, cancel_id)
            self._nudge(workers)
        return None if count < 0 else cast(int, count)

    def cancel_steps(self, run_id: str, steps: Sequence[str], reason: str) -> tuple[int, Ready]:
        """Cancel steps of a run, which goes on; for what is below them they have failed.

        Returns how many had not ended, and the chains to dispatch. Raises StepUnknown.
        """
        count, ready = 0, list[Ready]()
        for page in in_pages(steps, self._page):
            more, chains = self._cancel_page(run_id, page, reason)
            count += more
            ready += chains
        return count, joined(ready)

    def _cancel_page(
        self, run_id: str, steps: Sequence[str], reason: str
    ) -> tuple[int, list[Ready]]:
        ready = list[Ready]()
        while True:
            try:
                count, chains, *workers = self._call(
                    run_id, "cancel_steps", reason, token_hex(6), *steps
                )
            except ResponseError as error:
                if str(error).startswith("UNKNOWN"):
                    raise StepUnknown(str(error).removeprefix("UNKNOWN ")) from None
                if str(error) != "RESUMING":
                    raise
                ready.append(self.go_on(run_id))  # what is reset is not known before
            else:
                self._nudge(workers)
                return count, [*ready, ready_in(chains)]
