"""Deleting a run: hidden in one call, then removed key by key, so that no server stands still for
it. A deletion that was interrupted is finished by whoever calls `erase` next."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import cast

from redis.exceptions import ResponseError

from orchestrator.errors import FormatUnknown
from orchestrator.ledger.calls import LedgerCalls
from orchestrator.ledger.events import EventKind
from orchestrator.ledger.parsing import states_in

STARTING_US = 3600 * 1_000_000  # a rerun that has not begun by then never will: see `stage`
KEYS_AT_ONCE = 500
PARTS = (
    "children",
    "inputs",
    "spec",
    "join",
    "output",
    "uncounted",
    "due",
    "front",
    "secret",
    "past",
    "reused",
    "dropped",
    "takers",
    "graph",
    "state",
    "events",
)
"""Fixed keys of a run, in the order in which they go: by the last two its logs are found."""


@dataclass(frozen=True, slots=True)
class Hidden:
    """A run that nobody finds any more; its keys and its artifacts are still there."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Why a run is not deleted: its `state` while it has not ended, how many attempts are being
    stopped, or the runs that have taken over outputs of it; nothing of this where it is unknown."""

    state: str = ""
    stopping: int = 0
    takers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Deletion:
    """A deletion that has begun. `keeps_artifacts`: only the record goes."""

    run_id: str
    began_at_us: int
    keeps_artifacts: bool


class Deleting(LedgerCalls):
    """Deleting a run that has ended."""

    def lend(self, run_id: str, taker: str) -> bool:
        """Let another run take over outputs of this one, which cannot be deleted before that one.
        Return False when this run is not there."""
        return bool(self._call(run_id, "lend", taker))

    def give_back(self, run_id: str, takers: Iterable[str]) -> None:
        """Note that these runs do not need this one any more."""
        self._call(run_id, "given_back", *takers)

    def hide(self, run_id: str, *, keeps_artifacts: bool = False) -> Hidden | Kept:
        """Begin to delete a run: from now on nobody finds it, and `deletions` has it."""
        detail = json.dumps({"at": self.now_us(), "keeps_artifacts": keeps_artifacts})
        self.client.hset(f"{self.prefix}:deleting", run_id, detail)
        try:
            answer = self._hide(run_id)
        except (FormatUnknown, ResponseError):
            self.client.hdel(f"{self.prefix}:deleting", run_id)
            raise
        if isinstance(answer, Kept):
            self.client.hdel(f"{self.prefix}:deleting", run_id)
        return answer

    def _hide(self, run_id: str) -> Hidden | Kept:
        while True:
            said, *more = self._call(run_id, "hide")
            if said == "hidden":
                return Hidden()
            if said == "open":
                return Kept(state=more[0])
            if said == "stopping":
                return Kept(stopping=int(more[0]))
            if said == "unknown":
                return Kept()
            takers = dict(zip(more[::2], map(int, more[1::2]), strict=True))
            gone = self._gone(takers)
            if len(gone) < len(takers):
                return Kept(takers=tuple(taker for taker in takers if taker not in gone))
            self.give_back(run_id, gone)

    def _gone(self, takers: dict[str, int]) -> list[str]:
        """Return those of the runs, with when they asked, that are not there and not about to
        be."""
        now_us = self.now_us()
        return [
            taker
            for taker, at_us in takers.items()
            if not self.exists(taker) and now_us - at_us > STARTING_US
        ]

    def takers(self, run_id: str) -> list[str]:
        """Return the runs that have taken over outputs of this one and are still there."""
        asked = cast(list[str], self.client.zrange(self.key(run_id, "takers"), 0, -1))
        return [taker for taker in asked if self.exists(taker)]

    def deletions(self) -> list[Deletion]:
        """Return the deletions that have begun and are not finished."""
        raw = cast(dict[str, str], self.client.hgetall(f"{self.prefix}:deleting"))
        begun = [(run_id, json.loads(text)) for run_id, text in raw.items()]
        return [
            Deletion(run_id, int(detail["at"]), bool(detail["keeps_artifacts"]))
            for run_id, detail in begun
        ]

    def erase(self, run_id: str) -> None:
        """Remove all keys of a run that was hidden, and strike it from the lists. Nothing happens
        to a run that was not."""
        fields = cast(dict[str, str], self.client.hgetall(self.key(run_id, "deleted")))
        if fields:
            logs = self._logs(run_id, has_resumes="resumes" in fields)
            while page := list(islice(logs, KEYS_AT_ONCE)):
                self._call(run_id, "erase", *page)
            queues = json.loads(fields.get("lists") or "[]")
            queued = [f"queued:{queue}:{level}" for queue, level in queues]
            self._call(run_id, "erase", *queued, *PARTS)
            for source in json.loads(fields.get("reuses") or "[]"):
                self.give_back(source, [run_id])
            self.client.zrem(f"{self.prefix}:runs", run_id)
            self.client.srem(f"{self.prefix}:active", run_id)
            self._call(run_id, "erase", "deleted")
        self.client.hdel(f"{self.prefix}:deleting", run_id)

    def _logs(self, run_id: str, *, has_resumes: bool) -> Iterator[str]:
        """Yield the keys, behind the run's own part, of all logs that the run may have."""
        for step, text in self.client.hscan_iter(self.key(run_id, "state"), count=KEYS_AT_ONCE):
            (_, attempts) = states_in({step: text})[step]
            for attempt in range(1, attempts + 1):
                yield f"log:{step}:{attempt}"
        if has_resumes:
            # steps that a resume has taken away
            for event in self.events(run_id):
                if event.kind is EventKind.STEP_STARTED:
                    yield f"log:{event.step}:{event.attempt}"
