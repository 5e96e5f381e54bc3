"""How the attempts of a run go, decided before it starts, and the attempts that workers have."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from orchestrator.ledger.values import (
    Link,
)
from tests.support.ledger_model import DEADLINE_S, Shape
from tests.support.runs import INSTANT_S, Graph

Links = tuple[Link, ...]

WORKERS = ("w1", "w11", "w2")  # one name is the beginning of another
COPIES = (0, 1, 1, 1, 1, 2, 3)  # how often a message that is sent arrives
LONG_S, NO_TIME_S = 3600.0, 0.0  # leases
LONG_US = 1_000_000_000
DEADLINE = {"deadline_s": DEADLINE_S}


@dataclass(frozen=True)
class Fate:
    """How the attempts of each step go: the first `failing[step]` fail, `retries[step]` more may
    follow the first.

    Attempts that do not count against the retries are not counted here either.
    """

    failing: dict[str, int]
    retries: dict[str, int]

    def fails(self, step: str, number: int) -> bool:
        return number <= self.failing.get(step, 0)

    def may_retry(self, step: str, number: int) -> bool:
        return number <= self.retries.get(step, 0)

    def fail_for_good(self) -> set[str]:
        return {step for step, failing in self.failing.items() if failing > self.retries[step]}


def random_fate(rng: Random, graph: Graph, trouble: float) -> Fate:
    failing = {step: rng.randint(1, 3) if rng.random() < trouble else 0 for step in graph.upstream}
    return Fate(
        failing, {step: rng.randint(0, 2) if rng.random() < 0.5 else 0 for step in graph.upstream}
    )


@dataclass(frozen=True)
class Attempt:
    """An attempt that a worker holds, or has committed."""

    step: str
    attempt: int
    token: int
    worker: str
    owner: str
    number: int  # of the attempts that count, from 1
    rest: Links  # the links that follow in its message


def shape_of(graph: Graph) -> Shape:
    patience = {step: INSTANT_S for step, it in graph.options.items() if "queue_timeout" in it}
    budget = {
        step: it["lost_attempts"] for step, it in graph.options.items() if "lost_attempts" in it
    }
    return Shape(graph.upstream, graph.rules, patience, budget)
