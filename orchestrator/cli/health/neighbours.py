"""Checks of who else is on the server: messages that are not ours, and what was done with them."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.cli.health.finding import Finding
from orchestrator.cli.session import Session
from orchestrator.ledger.set_aside import dead_key, returning_command, set_aside_in


def check_set_aside(session: Session) -> Iterator[Finding]:
    chosen, prefix = session.settings, session.ledger.prefix
    for it in set_aside_in(session.ledger.client, prefix, map(chosen.queue_of, chosen.pools)):
        if it.foreign:
            yield Finding(
                "warning",
                f"queue {it.queue}",
                f"{it.foreign:,} messages of another application came to it and are kept. Give one of the two another "
                f"queue, then return them: {returning_command(prefix, it.queue, chosen.list_of(it.queue))}",
            )
        if it.dead:
            yield Finding(
                "warning",
                f"queue {it.queue}",
                f"{it.dead:,} entries that are not messages of ours were put aside; the last ones are in the list "
                f"{dead_key(prefix, it.queue)} (the latest: {it.last_reason}). Delete it when you have seen them.",
            )
