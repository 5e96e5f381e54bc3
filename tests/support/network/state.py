"""What the network is made of: a run, its model, and what is on the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from random import Random

from orchestrator.ledger.events import Event
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.values import (
    Commit,
    Refusal,
)
from tests.support.ledger_model import LedgerModel
from tests.support.network.fates import DEADLINE, Attempt, Fate, Links, shape_of
from tests.support.runs import Graph, age, start


@dataclass
class NetworkState:
    ledger: Ledger
    graph: Graph
    fate: Fate
    rng: Random
    max_links: int = 3
    has_deadline: bool = False  # which it has missed when somebody looks
    may_time_out: bool = True
    may_be_late: bool = True  # by a deadline that a resume gives
    age_us: int = 0  # how long ago the run was created; from 1e14 on numbers need care in Lua
    run_id: str = ""
    sent: list[Links] = field(default_factory=list)
    in_flight: list[Links] = field(default_factory=list)
    in_hand: list[Attempt] = field(default_factory=list)
    dead: list[Attempt] = field(default_factory=list)  # died with their process, seen by nobody yet
    # commits, was it a success
    said: list[tuple[Attempt, bool, Commit | Refusal]] = field(default_factory=list)
    held: list[Attempt] = field(default_factory=list)  # all that ever were
    claims: int = 0
    seen: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        plan = self.graph.plan()
        self.pipeline = plan.pipeline.name
        self.next_in_chain = {a: b for chain in plan.chains for a, b in pairwise(chain)}
        self.model = LedgerModel(shape_of(self.graph), has_missed_deadline=self.has_deadline)
        fields = DEADLINE if self.has_deadline else {}
        self.run_id, ready = start(self._teller(), plan, max_links=self.max_links, fields=fields)
        if self.age_us:
            age(self.ledger, self.run_id, self.age_us)
        self._compare_ready(ready, self.model.start())
        self.compare()
        self._send(ready)
