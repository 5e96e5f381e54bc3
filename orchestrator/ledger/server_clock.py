"""The server's clock, watched against the caller's own: whether it was put forward or back, and
when it was away.

The ledger's times are the server's, and Lua has nothing else to measure by. Coordinators, who judge
by them, know from the last look and from the time since then, by a clock that nobody sets and that
goes on in a suspended machine (CLOCK_BOOTTIME), what the server's clock should show. If it shows
something else it was put. All agree on one step of it, which gets a number and stands in
`{prefix}:clock`: a JSON list [[step, by_us, last_us], ...], `last_us` being the last time that was
seen by the clock as it was. Each run is then shifted by that step, once (`ops.shift` of the Lua).
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable
from typing import NamedTuple, cast

import redis
from redis.exceptions import WatchError

TOLERANCE_S = 2.0  # as in lua/clocks.lua; what is less is drift, or a clock that is slewed
QUICK_S = 0.5  # a slower answer does not say when the server looked at its clock
KEPT_STEPS = 50

logger = logging.getLogger(__name__)


class ClockStep(NamedTuple):
    """The server's clock was put forward by `by_us` (back, if negative) when it showed
    `last_us`."""

    number: int
    by_us: int
    last_us: int


def boot_s() -> float:
    """Return the seconds of a clock that nobody sets and that does not stop."""
    return time.clock_gettime(_BOOT_CLOCK)


_BOOT_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def clock_key(prefix: str) -> str:
    return f"{prefix}:clock"


def steps_in(text: str | None) -> tuple[ClockStep, ...]:
    """Return the steps of the clock in the text of their key, the last one at the end."""
    return tuple(ClockStep(*step) for step in json.loads(text or "[]"))


def last_step_in(text: str | None) -> int:
    """Return the number of the last step of the clock, 0 if there was none."""
    steps = steps_in(text)
    return steps[-1].number if steps else 0


class ServerClock:
    """What one caller knows of the server's clock. Not for use by several threads at once."""

    def __init__(self, client: redis.Redis, prefix: str) -> None:
        self._client, self._key = client, clock_key(prefix)
        self._ahead_us: float | None = None  # of our own clock, at the last quick look
        self._last_us = 0  # what it showed then
        self._known = 0  # the last step of the clock then
        self._looked_at = self._answered_at = 0.0
        self.steps: tuple[ClockStep, ...] = ()
        self.absences = 0  # how often the server was away
        self.away_s = 0.0  # for how long it was the last time

    def look(self, at_most_every_s: float = 0.0, away_after_s: float = 3.0) -> None:
        """Ask for the server's time, and record a step of its clock if there was one. Raises as
        every call does."""
        began = boot_s()
        if self._ahead_us is not None and began - self._looked_at < at_most_every_s:
            return
        with self._client.pipeline(transaction=True) as pipe:  # no step is recorded between the two
            pipe.time()
            pipe.get(self._key)
            (seconds, microseconds), text = pipe.execute()
        ended = self._looked_at = boot_s()
        if self._answered_at and ended - self._answered_at > away_after_s:
            self.absences, self.away_s = self.absences + 1, ended - self._answered_at
        self._answered_at = ended
        self.steps = steps_in(text)
        if ended - began > QUICK_S and self._ahead_us is not None:
            return
        server_us = seconds * 1_000_000 + microseconds
        ahead_us = server_us - 1e6 * (began + ended) / 2
        by_us = 0.0 if self._ahead_us is None else ahead_us - self._ahead_us
        # Not by_us alone: a process that was late sees nothing of two steps that cancel each other
        # out, of which one is recorded.
        if (
            self._ahead_us is not None
            and abs(by_us - _sum_of(self.steps, self._known)) > TOLERANCE_S * 1e6
        ):
            self.steps = self._agree(round(by_us))
        self._ahead_us, self._last_us = ahead_us, server_us
        self._known = self.last_step

    @property
    def last_step(self) -> int:
        return self.steps[-1].number if self.steps else 0

    def expected_us(self) -> int | None:
        """Return what the server's clock should show now; None before the first look."""
        return None if self._ahead_us is None else round(self._ahead_us + 1e6 * boot_s())

    def _agree(self, by_us: int) -> tuple[ClockStep, ...]:
        """Record a step of the clock, unless others have seen it as well and were faster; returns
        the steps."""
        with self._client.pipeline(transaction=True) as pipe:
            while True:
                try:
                    pipe.watch(self._key)  # type: ignore[no-untyped-call]
                    steps = steps_in(cast("str | None", pipe.get(self._key)))
                    by_others = _sum_of(steps, self._known)
                    rest_us = by_us - by_others
                    if abs(rest_us) <= TOLERANCE_S * 1e6:
                        return steps
                    number = steps[-1].number + 1 if steps else 1
                    steps = (*steps, ClockStep(number, rest_us, self._last_us + by_others))[
                        -KEPT_STEPS:
                    ]
                    pipe.multi()
                    pipe.set(self._key, json.dumps(steps))
                    pipe.execute()
                except WatchError:
                    continue
                logger.warning(
                    "the server's clock was put %s by %.1f s",
                    _direction(rest_us),
                    abs(rest_us) / 1e6,
                )
                return steps


def _sum_of(steps: Iterable[ClockStep], after: int) -> int:
    """Return by how many microseconds the steps behind that number have put the clock in all."""
    return sum(step.by_us for step in steps if step.number > after)


def _direction(by_us: int) -> str:
    return "forward" if by_us > 0 else "back"
