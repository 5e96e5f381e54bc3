"""Starting a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from secrets import token_hex
from typing import Any

from redis.exceptions import ResponseError

from orchestrator.ledger.calls import LedgerCalls
from orchestrator.ledger.entries import FORMAT, json_text
from orchestrator.ledger.pages import in_pages
from orchestrator.ledger.replies import ready_in
from orchestrator.ledger.server_clock import clock_key, last_step_in
from orchestrator.ledger.values import (
    Ready,
    RunExists,
    StagedStep,
)

FRONT_PAGES = 10  # of the front that are staged in one call


class Starting(LedgerCalls):
    """Starting a run."""

    def start(
        self,
        run_id: str,
        steps: Iterable[StagedStep],
        roots: Sequence[str],
        fields: Mapping[str, str | int],
    ) -> Ready:
        """Write a run and queue its roots, and what waits for none but reused steps; give them as
        chains to dispatch, of a wide run those of a page.

        The run exists from the last call on, at once and whole. Of several callers with one
        `run_id` the first to get there makes the run, of what it has staged itself; the others
        raise RunExists.
        """
        start_id = token_hex(6)
        reused = list[tuple[int, str]]()
        count = self._stage(run_id, start_id, _noting(steps, reused))
        taken_over = [step for _, step in sorted(reused)]
        pages = self._stage_front(
            run_id,
            start_id,
            [
                *self._front("reuse", taken_over),
                *self._front("told", [[step, "ok", step] for step in taken_over]),
                *self._front("ready", roots),
            ],
        )
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
            chains = self._call(run_id, "start", count, start_id, pages, *pairs)
        except ResponseError as error:
            if str(error).startswith("EXISTS"):
                raise RunExists(run_id) from None
            raise
        self._keep_watched(run_id)
        # a deletion of a former run of this id may have struck it meanwhile
        self.client.zadd(f"{self.prefix}:runs", {run_id: self.now_us()}, nx=True)
        return ready_in(chains)

    def _stage(self, run_id: str, stage_id: str, steps: Iterable[StagedStep]) -> int:
        """Write steps where only the submit or resume of this id finds them. Return how many they
        are."""
        remaining, count = iter(steps), 0
        while page := list(islice(remaining, self._page)):
            words = [word for step in page for word in step.as_words(self._page)]
            for part in in_pages(words, 7 * self._page):
                self._call(run_id, "stage", stage_id, *part)
            count += len(page)
        return count

    def _front(self, kind: str, what: Sequence[Any]) -> Iterator[str]:
        """Return what is to be done of `what` as the front has it, in pages."""
        return (json_text([kind, page]) for page in in_pages(what, self._page))

    def _stage_front(self, run_id: str, stage_id: str, front: Sequence[str]) -> int:
        """Write the front as the submit or resume of this id will have it. Return how many pages it
        has."""
        for before in range(0, len(front), FRONT_PAGES):
            texts = front[before : before + FRONT_PAGES]
            self._call(run_id, "stage_front", stage_id, before, *texts)
        return len(front)


def _noting(steps: Iterable[StagedStep], reused: list[tuple[int, str]]) -> Iterator[StagedStep]:
    """Return the steps, and note the place and the name of each that is taken over."""
    for step in steps:
        if step.reused:
            reused.append((int(step.reused.partition(" ")[0]), step.step))
        yield step
