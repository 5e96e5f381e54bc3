"""Ending the steps of a run as a test words it."""

from __future__ import annotations

from orchestrator.attempt_id import AttemptId
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.states import Outcome
from tests.support.runs import begin


def end(ledger: Ledger, run_id: str, ending: str) -> None:
    """End the steps named in order; "!" behind a name lets it fail."""
    for word in ending.split():
        step = word.removesuffix("!")
        attempt = ledger.states(run_id)[step][1]
        token = begin(ledger, run_id, step, attempt)
        outcome = Outcome.FAILED if word != step else Outcome.SUCCEEDED
        ledger.commit(AttemptId(run_id, step, attempt), token, "w", outcome, output=f'"{step}"')
