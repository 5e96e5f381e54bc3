"""What every operation of the ledger goes through: one call of the script, atomic, on one run."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from secrets import token_hex
from typing import Any, cast

import redis
from redis.exceptions import RedisError, ResponseError

from orchestrator.attempt_id import AttemptId
from orchestrator.errors import FormatUnknown
from orchestrator.ledger.entries import FORMAT
from orchestrator.ledger.pages import PAGE
from orchestrator.ledger.reads import LedgerReads
from orchestrator.ledger.replies import ready_in
from orchestrator.ledger.script import Script
from orchestrator.ledger.states import RunState
from orchestrator.ledger.values import Ready

logger = logging.getLogger(__name__)

NUDGE_KEPT_S = 10


class LedgerCalls(LedgerReads):
    """What every operation of the ledger goes through: one call of the script, atomic, on one
    run."""

    def __init__(self, client: redis.Redis, prefix: str = "orc", page: int = PAGE) -> None:
        """`page` is how many steps a call looks at."""
        super().__init__(client, prefix)
        self._page, self._script = page, Script(client, page)

    def _call(self, run_id: str, *args: Any) -> Any:
        try:
            return self._script.call(self.key(run_id, "run"), *args)
        except ResponseError as error:
            if str(error).startswith("FORMAT "):
                raise FormatUnknown(
                    run_id, int(str(error).removeprefix("FORMAT ")), FORMAT
                ) from None
            raise

    def _call_for(self, attempt: AttemptId, operation: str, *args: Any) -> Any:
        return self._call(attempt.run_id, operation, attempt.step, attempt.attempt, *args)

    def go_on(self, run_id: str) -> Ready:
        """Do a page of what stands in the front of a run, and return the chains to dispatch. Any
        number may do that at once."""
        chains, *workers = self._call(run_id, "go_on", token_hex(6))
        self._nudge(workers)
        return ready_in(chains)

    def _nudge(self, workers: Iterable[str]) -> None:
        """Wake workers that have attempts to stop. No more than a hint: they find them at the next
        renewal anyway."""
        names = list(workers)
        if not names:
            return
        try:
            with self.client.pipeline(transaction=False) as pipe:
                for name in names:
                    pipe.lpush(self.nudge_key(name), 1)
                    pipe.expire(self.nudge_key(name), NUDGE_KEPT_S)
                pipe.execute()
        except RedisError as error:  # what they are to stop is in the ledger
            logger.warning(
                "workers could not be woken, they stop what was cancelled a little later: %s", error
            )

    def unwatch_run(self, run_id: str) -> None:
        """Strike a run from the coordinators' list that has ended, or was never started."""
        self.client.srem(f"{self.prefix}:active", run_id)
        state = cast(str | None, self.client.hget(self.key(run_id, "run"), "state"))
        if state and not RunState(state).is_ended:  # it was started just now
            self.watch_run(run_id)

    def _keep_watched(self, run_id: str) -> None:
        """Put a run that is in the ledger by now into the coordinators' list again, for one of them
        may have struck it just before. If that fails they find it by themselves
        (`unwatched_runs`)."""
        try:
            self.watch_run(run_id)
        except RedisError as error:
            logger.warning(
                "run %s could not be given to the coordinators, which look for it: %s",
                run_id,
                error,
            )

    def watch_run(self, run_id: str) -> None:
        """Put a run into the coordinators' list."""
        self.client.sadd(f"{self.prefix}:active", run_id)
