"""Checks of the work at hand: messages that wait, runs that are active."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.cli.health.finding import Finding
from orchestrator.cli.session import Session
from orchestrator.messages.queues import queue_length
from orchestrator.wording import listed


def check_queues(session: Session) -> Iterator[Finding]:
    for name in session.settings.pools:
        queue = session.settings.queue_of(name)
        if waiting := queue_length(session.ledger.client, session.settings.list_of(queue)):
            yield Finding("ok", f"queue {queue}", f"{waiting} messages wait")


def check_active_runs(session: Session) -> Iterator[Finding]:
    active = session.ledger.active_runs()
    yield Finding("ok", "active runs", listed(active, 5) or "none")
