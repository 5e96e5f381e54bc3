"""Where the record of a run is read from: the ledger, or whatever else has kept its events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from orchestrator.ledger.entries import StepEntry, StepSpec
from orchestrator.ledger.events import Event
from orchestrator.ledger.past import Past
from orchestrator.ledger.standing import Standing
from orchestrator.ledger.states import StepState


class EventSource(Protocol):
    """What is kept of runs. Each raises RunUnknown, or returns nothing, for a run that is not
    there."""

    def run_fields(self, run_id: str) -> Mapping[str, str]:
        """Return the fields of a run as a whole (the head of `ledger/lua/keys.lua`). Raises
        RunUnknown."""

    def entries(self, run_id: str) -> Mapping[str, StepEntry]:
        """Return every step's entry in the graph, in the user's order."""

    def specs(self, run_id: str) -> Mapping[str, StepSpec]:
        """Return every step's call and options."""

    def events(self, run_id: str, after: str = "0") -> Iterable[Event]:
        """Return the events behind the event id `after`, oldest first."""

    def outputs(self, run_id: str) -> Mapping[str, str]:
        """Return the JSON text of every output that is not null, by step."""

    def past(self, run_id: str) -> Past:
        """Return what resumes have replaced."""

    def states(self, run_id: str) -> Mapping[str, tuple[StepState, int]]:
        """Return state and current attempt of every step that has left `waiting`."""


class StandingSource(EventSource, Protocol):
    """A source that also holds how a run stands now, to be compared with its events."""

    def standing(self, run_id: str) -> Standing:
        """Return a run as it is at one moment. Raises RunUnknown."""
