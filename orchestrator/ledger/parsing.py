"""What the hashes of a run hold, read as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.ledger.entries import StepEntry
from orchestrator.ledger.states import StepState
from orchestrator.ledger.values import Reused

_STATES = {state.value: state for state in StepState}


@dataclass(frozen=True, slots=True)
class StepStanding:
    """Where a step stands: since `at_us` it is in its state. `token` is that of the last attempt
    that began, 0 while another one is queued; `holder` has the attempt that runs or is to be
    stopped, as "worker claim_id"."""

    state: StepState = StepState.WAITING
    attempt: int = 0
    token: int = 0
    at_us: int = 0
    holder: str = "-"


def standing_in(text: str | None) -> StepStanding:
    """Return where a step stands, by its value in a state hash; it waits if it has none."""
    if not text:
        return StepStanding()
    state, attempt, token, at, holder = text.split(" ", 4)
    return StepStanding(_STATES[state], int(attempt), int(token), int(at), holder)


def state_in(text: str | None) -> StepState:
    """Return the state of a step, by its value in a state hash; it waits if it has none."""
    return _STATES[text.partition(" ")[0]] if text else StepState.WAITING


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
