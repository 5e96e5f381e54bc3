"""What can be read of single steps of a run, at a cost that does not depend on how many others it
has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from orchestrator.ledger.entries import StepEntry, StepSpec
from orchestrator.ledger.parsing import StepStanding, reused_in, standing_in, state_in
from orchestrator.ledger.run_lists import RunLists
from orchestrator.ledger.states import StepState
from orchestrator.ledger.values import Reused

STEPS_PAGE = 5000
FIRST_ENTRIES_PAGE = 50
ENTRIES_PAGE = 5000

Entry = tuple[str, Mapping[str, str]]


class StepReads(RunLists):
    """Single steps of runs in one Redis."""

    def entry(self, run_id: str, step: str) -> StepEntry | None:
        """Return one step's entry in the graph, None if there is no such step."""
        return next(iter(self.entries_of(run_id, [step]).values()), None)

    def spec(self, run_id: str, step: str) -> StepSpec | None:
        """Return one step's call and options, None if there is no such step."""
        return next(iter(self.specs_of(run_id, [step]).values()), None)

    def entries_of(self, run_id: str, steps: Sequence[str]) -> dict[str, StepEntry]:
        """Return the entries in the graph of those of the steps that the run has."""
        texts = self._values(run_id, "graph", steps)
        return {step: StepEntry.from_json(text) for step, text in texts if text}

    def specs_of(self, run_id: str, steps: Sequence[str]) -> dict[str, StepSpec]:
        """Return call and options of those of the steps that the run has."""
        texts = self._values(run_id, "spec", steps)
        return {step: StepSpec.from_json(text) for step, text in texts if text}

    def standings_of(self, run_id: str, steps: Sequence[str]) -> dict[str, StepStanding]:
        """Return where these steps stand; one that the run does not have waits."""
        texts = self._values(run_id, "state", steps)
        return {step: standing_in(text) for step, text in texts}

    def states_of(self, run_id: str, steps: Sequence[str]) -> dict[str, StepState]:
        """Return the states of these steps; one that the run does not have waits."""
        texts = self._values(run_id, "state", steps)
        return {step: state_in(text) for step, text in texts}

    def reused_by(self, run_id: str, step: str) -> Reused | None:
        """Return the attempt of another run that a step is taken over from, None if it is not."""
        text = cast(str | None, self.client.hget(self.key(run_id, "reused"), step))
        return reused_in(text) if text else None

    def entries_at(self, run_id: str, at_us: int) -> Iterator[Entry]:
        """Return the entries of the stream of events whose ids are of that millisecond, oldest
        first.

        These are the events of that time, unless the server's clock was put back before it.
        """
        key, moment = self.key(run_id, "events"), str(at_us // 1000)
        begin, size = moment, FIRST_ENTRIES_PAGE
        while True:
            page = cast(list[Entry], self.client.xrange(key, begin, moment, size))
            yield from page
            if len(page) < size:
                return
            begin, size = f"({page[-1][0]}", ENTRIES_PAGE

    def entries_back(self, run_id: str, before: str = "") -> Iterator[Entry]:
        """Return the entries of the stream of events, newest first; with `before` those that are
        older than the one of that id."""
        key, end, size = (
            self.key(run_id, "events"),
            f"({before}" if before else "+",
            FIRST_ENTRIES_PAGE,
        )
        while True:
            page = cast(list[Entry], self.client.xrevrange(key, end, "-", size))
            yield from page
            if len(page) < size:
                return
            end, size = f"({page[-1][0]}", min(2 * size, ENTRIES_PAGE)

    def _values(
        self, run_id: str, part: str, steps: Sequence[str]
    ) -> Iterator[tuple[str, str | None]]:
        """Return what a hash of a run holds of each of the steps."""
        key = self.key(run_id, part)
        for begin in range(0, len(steps), STEPS_PAGE):
            page = list(steps[begin : begin + STEPS_PAGE])
            texts = cast(list[str | None], self.client.hmget(key, page))
            yield from zip(page, texts, strict=True)
