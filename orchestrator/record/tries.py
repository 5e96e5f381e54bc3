"""What a step has used of its retries."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.ledger.states import Outcome

UNCOUNTED = frozenset({Outcome.LOST, Outcome.HANDED_OVER, Outcome.PUT_BACK, Outcome.CANCELLED})
"""How attempts end that do not count against the retries."""


@dataclass(frozen=True, slots=True)
class Tries:
    """Attempts since the last resume that count against the retries, and how many there may be;
    `is_resumed` if the step had attempts before that."""

    made: int
    allowed: int
    is_resumed: bool
