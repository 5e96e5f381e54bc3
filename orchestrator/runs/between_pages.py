"""Why a step of a large run is where it is while somebody writes what was decided, page by page."""

from __future__ import annotations

from collections.abc import Collection

from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.states import RunState


def between_pages(ledger: Ledger, run_id: str, name: str, awaited: Collection[str] | None) -> str:
    """Return a sentence on a step that has not begun, "" when nothing about it is still to be
    written. `awaited` are the steps that it waits for, None if it does not wait."""
    fields = ledger.run_fields(run_id)
    if fields["state"] == RunState.CANCELLING:
        return (
            f"The run is being cancelled ({fields.get('cancel_reason', '')}): {name} does not begin"
            " any more, and is cancelled when its turn has come."
        )
    if fields["state"] == RunState.RESUMING:
        return "The run is being resumed: its steps are reset, and nothing begins before."
    if awaited is not None and not awaited:
        return f"All that {name} waits for has ended; it is told so when its turn has come."
    return ""
