"""Which runs there are: the list of all, and those that coordinators watch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import cast

import redis

from orchestrator.ledger.states import RunState
from orchestrator.ledger.values import RunUnknown

RUNS_PAGE = 100
RUNS_LOOKED_AT = 100_000  # the newest
RUNS_TENDED = 10_000  # the newest


class RunLists:
    """The runs of one Redis, newest first."""

    def __init__(self, client: redis.Redis, prefix: str = "orc") -> None:
        self.client = client
        self.prefix = prefix

    def key(self, run_id: str, part: str) -> str:
        return f"{self.prefix}:{{{run_id}}}:{part}"

    def nudge_key(self, worker: str) -> str:
        """Return the list that a worker's main process waits at between two renewals."""
        return f"{self.prefix}:nudge:{worker}"

    def active_runs(self) -> list[str]:
        """Return the runs that have not ended, as far as coordinators have noticed."""
        return sorted(cast(set[str], self.client.smembers(f"{self.prefix}:active")))

    def recent_runs(self, limit: int) -> list[str]:
        """Return run ids, newest first; not those of runs that somebody deleted, or that are not
        started yet."""
        found: list[str] = []
        for run_ids in self._pages_of_runs(max(limit, RUNS_PAGE)):
            found += (run_id for run_id, state in self._states_of_runs(run_ids) if state)
            if len(found) >= limit:
                break
        return found[:limit]

    def newest_runs(
        self, fields: Sequence[str], before: str = ""
    ) -> Iterator[tuple[str, dict[str, str]]]:
        """Yield id and these fields of all runs, newest first, read a page at a time; of those that
        are older than a run if it is named. No run comes twice, whatever is submitted
        meanwhile."""
        for run_ids in self._pages_of_runs(RUNS_PAGE, before):
            with self.client.pipeline(transaction=False) as pipe:
                for run_id in run_ids:
                    pipe.hmget(self.key(run_id, "run"), "state", *fields)
                rows = pipe.execute()
            for run_id, (state, *values) in zip(run_ids, rows, strict=True):
                if state:  # one that is being submitted is in the list, and has none yet
                    held = zip(fields, values, strict=True)
                    yield run_id, {name: value for name, value in held if value is not None}

    def runs_that_begin_with(self, text: str) -> list[str]:
        """Return the ids of runs that begin so, newest first, as far as RUNS_LOOKED_AT."""
        listed = [
            run_id for run_id in self._listed_runs(0, RUNS_LOOKED_AT) if run_id.startswith(text)
        ]
        return [run_id for run_id, state in self._states_of_runs(listed) if state]

    def unwatched_runs(self, before: str = "") -> tuple[list[str], str]:
        """Return runs that have not ended, but that coordinators do not know of, of the RUNS_TENDED
        newest that are older than the run `before`; and the run from which to go on, "" behind the
        oldest one. Raises RunUnknown where `before` is not there."""
        page = next(self._pages_of_runs(RUNS_TENDED, before), [])
        states = self._states_of_runs(page)
        is_open = [run_id for run_id, state in states if state and not RunState(state).is_ended]
        found = sorted(set(is_open) - set(self.active_runs()))
        return found, page[-1] if len(page) >= RUNS_TENDED else ""

    def _listed_runs(self, begin: int, limit: int) -> list[str]:
        return cast(
            list[str], self.client.zrevrange(f"{self.prefix}:runs", begin, begin + limit - 1)
        )

    def _pages_of_runs(self, size: int, before: str = "") -> Iterator[list[str]]:
        """Yield the ids of all runs, newest first, in pages, each from where the last one ended.
        Raises RunUnknown where `before` is not there."""
        key, place = f"{self.prefix}:runs", (math.inf, "")
        if before:
            score = self.client.zscore(key, before)
            if score is None:
                raise RunUnknown(before)
            place = (score, before)
        while True:
            page: list[tuple[float, str]] = []
            passed = 0
            while len(page) < size:
                found = cast(
                    list[tuple[str, float]],
                    self.client.zrevrangebyscore(
                        key, place[0], "-inf", start=passed, num=size, withscores=True
                    ),
                )
                passed += len(found)
                page += [(at, run_id) for run_id, at in found if (at, run_id) < place]
                if len(found) < size:
                    break
            if page:
                yield [run_id for _, run_id in page]
                place = page[-1]
            if len(page) < size:
                return

    def _states_of_runs(self, run_ids: Sequence[str]) -> Iterator[tuple[str, str | None]]:
        with self.client.pipeline(transaction=False) as pipe:
            for run_id in run_ids:
                pipe.hget(self.key(run_id, "run"), "state")
            return zip(run_ids, cast(list[str | None], pipe.execute()), strict=True)

    def count_runs(self) -> int:
        """Return how many runs are kept, ended ones included."""
        return self.client.zcard(f"{self.prefix}:runs")
