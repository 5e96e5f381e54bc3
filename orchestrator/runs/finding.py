"""Which run is meant by what a person wrote."""

from __future__ import annotations

from orchestrator.errors import RunNotFound
from orchestrator.ledger.ledger import Ledger


def find_run(ledger: Ledger, text: str) -> str:
    """Return the run that is meant by an id, the beginning of one, or "last". Raises
    RunNotFound."""
    if text == "last":
        newest = ledger.recent_runs(1)
        if not newest:
            raise RunNotFound("there is no run yet")
        return newest[0]
    if ledger.exists(text):
        return text
    begun = ledger.runs_that_begin_with(text)
    if len(begun) == 1:
        return begun[0]
    if begun:
        more = ", …" if len(begun) > 5 else ""
        raise RunNotFound(
            f"{text!r} is the beginning of {len(begun)} runs: {', '.join(begun[:5])}{more}"
        )
    newest = ledger.recent_runs(1)
    hint = f"The newest is {newest[0]}." if newest else "There is no run yet."
    raise RunNotFound(f"there is no run {text!r}. {hint}")
