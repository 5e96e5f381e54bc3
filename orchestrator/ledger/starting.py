"""Starting a run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from secrets import token_hex

from redis.exceptions import ResponseError

from orchestrator.ledger.calls import LedgerCalls
from orchestrator.ledger.entries import FORMAT
from orchestrator.ledger.replies import chains_in
from orchestrator.ledger.server_clock import clock_key, last_step_in
from orchestrator.ledger.values import (
    Chain,
    RunExists,
    StagedStep,
)

# steps written in one call, so that a huge submit never blocks the server for long
STAGE_STEPS = 1000


class Starting(LedgerCalls):
    """Starting a run."""

    def start(
        self,
        run_id: str,
        steps: Iterable[StagedStep],
        roots: Sequence[str],
        fields: Mapping[str, str | int],
    ) -> tuple[Chain, ...]:
        """Write a run and queue its roots, and what waits for none but reused steps; give them as
        chains to dispatch.

        The run exists from the last call on, at once and whole. Of several callers with one
        `run_id` the first to get there makes the run, of what it has staged itself; the others
        raise RunExists.
        """
        start_id = token_hex(6)
        count = self._stage(run_id, start_id, steps)
        pairs = [item for pair in fields.items() for item in pair]
        with self.client.pipeline(transaction=False) as pipe:
            pipe.zadd(f"{self.prefix}:runs", {run_id: self.now_us()}, nx=True)
            pipe.sadd(f"{self.prefix}:active", run_id)
            pipe.get(clock_key(self.prefix))
            *_, clock_text = pipe.execute()
        if clock_step := last_step_in(clock_text):
            pairs += ["clock_step", clock_step]
        pairs += ["v", FORMAT]
        try:
            chains = self._call(run_id, "start", count, start_id, json.dumps(list(roots)), *pairs)
        except ResponseError as error:
            if str(error).startswith("EXISTS"):
                raise RunExists(run_id) from None
            raise
        self._keep_watched(run_id)
        # a deletion of a former run of this id may have struck it meanwhile
        self.client.zadd(f"{self.prefix}:runs", {run_id: self.now_us()}, nx=True)
        return chains_in(chains)

    def _stage(self, run_id: str, stage_id: str, steps: Iterable[StagedStep]) -> int:
        """Write steps where only the submit or resume of this id finds them. Return how many they
        are."""
        remaining, count = iter(steps), 0
        while page := list(islice(remaining, STAGE_STEPS)):
            self._call(
                run_id, "stage", stage_id, *(word for step in page for word in step.as_words())
            )
            count += len(page)
        return count
