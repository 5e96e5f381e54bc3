"""What a coordinator does in each round, as a list: a name, a pace, and one call."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from orchestrator.outages import EXPECTED, Outage

logger = logging.getLogger(__name__)


class Duty(Protocol):
    """Something that has to be done again and again, by any number of coordinators at once.

    An error of `outages.EXPECTED` says that the server is away, and ends the round; any other one
    is logged once until the duty succeeds again, and the other duties go on.
    """

    @property
    def name(self) -> str:
        """What it does, as a phrase with a subject: "runs that nobody watches are found"."""

    @property
    def pace_s(self) -> float:
        """Seconds between two times; 0 for in every round."""

    def do(self, now: float) -> float | None:
        """Do it; `now` is monotonic. Return the seconds until the next round is worth it, None for
        no matter when."""


@dataclass(frozen=True, slots=True)
class Done:
    """One time that a duty was done. `error` is what it failed with, None if it did not."""

    duty: str
    took_s: float
    error: Exception | None = None


@dataclass
class Rounds:
    """Goes through duties, each at its pace. `observe` is called each time that one was done, for
    metrics."""

    duties: list[Duty]
    observe: Callable[[Done], object] = lambda done: None
    _next: dict[str, float] = field(default_factory=dict)
    _troubles: dict[str, Outage] = field(default_factory=dict)

    def go(self, longest_pause_s: float) -> float:
        """Do what is due, and return the seconds until the next round. Raises what
        `outages.EXPECTED` names."""
        pause_s = longest_pause_s
        for duty in self.duties:
            now = time.monotonic()
            if now < self._next.get(duty.name, 0.0):
                continue
            self._next[duty.name] = now + duty.pace_s
            wanted_s = self._do(duty, now)
            if wanted_s is not None:
                pause_s = min(pause_s, wanted_s)
        return pause_s

    def _do(self, duty: Duty, now: float) -> float | None:
        try:
            wanted_s = duty.do(now)
        except EXPECTED as error:
            self._next.pop(duty.name)  # as soon as the server is back
            self.observe(Done(duty.name, time.monotonic() - now, error))
            raise
        except Exception as error:
            self._troubles.setdefault(
                duty.name, Outage(logger, f"a duty fails ({duty.name})")
            ).begins(error)
            self.observe(Done(duty.name, time.monotonic() - now, error))
            return None
        if duty.name in self._troubles:
            self._troubles.pop(duty.name).is_over()
        self.observe(Done(duty.name, time.monotonic() - now))
        return wanted_s
