"""Checks of the work at hand: messages that wait, runs that are active."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.cli.health.finding import Finding
from orchestrator.installation import Installation
from orchestrator.messages.queues import queue_length
from orchestrator.wording import listed


def check_queues(installation: Installation) -> Iterator[Finding]:
    for name in installation.settings.pools:
        queue = installation.settings.queue_of(name)
        if waiting := queue_length(
            installation.ledger.client, installation.settings.list_of(queue)
        ):
            yield Finding("ok", f"queue {queue}", f"{waiting} messages wait")


def check_active_runs(installation: Installation) -> Iterator[Finding]:
    active = installation.ledger.active_runs()
    yield Finding("ok", "active runs", listed(active, 5) or "none")
