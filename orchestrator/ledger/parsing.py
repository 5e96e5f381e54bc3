"""What the hashes of a run hold, read as values."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.ledger.entries import StepEntry
from orchestrator.ledger.states import StepState
from orchestrator.ledger.values import Reused


def states_in(raw: Mapping[str, str]) -> dict[str, tuple[StepState, int]]:
    """Return state and current attempt of every step of a state hash."""
    states = {}
    for step, text in raw.items():
        state, attempt, _ = text.split(" ", 2)
        states[step] = (StepState(state), int(attempt))
    return states


def reused_in(text: str) -> Reused:
    """Return the attempt that one value of a hash of reused steps names."""
    _, attempt, run_id = text.split(" ", 2)
    return Reused(run_id, int(attempt))


def since_in(text: str) -> int:
    """Return since when a step is in its state, by one value of a state hash: microseconds since
    the epoch."""
    return int(text.split(" ", 4)[3])


def token_in(text: str) -> int:
    """Return the token in one value of a state hash, 0 for none."""
    return int(text.split(" ", 3)[2])


def entries_in(raw: Mapping[str, str]) -> dict[str, StepEntry]:
    """Return the entries of a run's graph, in the user's order."""
    entries = {step: StepEntry.from_json(text) for step, text in raw.items()}
    return dict(sorted(entries.items(), key=lambda item: item[1].place))
