"""A run as the ledger holds it at one moment: what its events are compared with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.ledger.entries import StepSpec
from orchestrator.ledger.events import Event
from orchestrator.ledger.front import Front
from orchestrator.ledger.pages import PAGE
from orchestrator.ledger.past import Past
from orchestrator.ledger.states import StepState
from orchestrator.ledger.values import Reused


@dataclass(frozen=True)
class Standing:
    """A run as the ledger holds it at one moment, with all events up to then. `queued` are the
    steps whose message is noted as sent, None if the run does not say where; `due` those that must
    be looked at some time.
    """

    fields: Mapping[str, str]
    upstream: Mapping[str, tuple[str, ...]]
    rules: Mapping[str, str]
    impatient: frozenset[str]  # steps with a queue timeout
    states: Mapping[str, tuple[StepState, int]]
    tokens: Mapping[str, int]  # of the last attempt, 0 if it has not begun
    due: frozenset[str]
    queued: Counter[str] | None
    outputs: frozenset[str]
    events: tuple[Event, ...]
    now_us: int  # by the server's clock
    deleted: int  # events that were deleted from the stream, as far as the server can say that
    since: Mapping[str, int] = field(default_factory=dict)  # step -> when it got into its state
    specs: Mapping[str, StepSpec] = field(default_factory=dict)
    past: Past = field(default_factory=Past)
    reused: Mapping[str, Reused] = field(default_factory=dict)
    front: Front = field(default_factory=Front)
    page: int = PAGE  # of the ledger that wrote it
