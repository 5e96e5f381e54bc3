"""Checks of what else is on the server: messages that are not ours, and what was done with them."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.cli.health.finding import Finding
from orchestrator.installation import Installation
from orchestrator.ledger.set_aside import dead_key, returning_command, set_aside_in
from orchestrator.ledger.shared_queues import shared_queues
from orchestrator.times import clock_text


def check_shared_queues(installation: Installation) -> Iterator[Finding]:
    settings = installation.settings
    queues = {name for pool in settings.pools for name in (settings.queue_of(pool), pool)}
    for shared in shared_queues(
        installation.ledger.client, installation.ledger.prefix, sorted(queues)
    ):
        yield Finding(
            "warning",
            f"queue {shared.queue}",
            f"{shared.reader} reads it, too (found at"
            f" {clock_text(round(shared.found_at * 1e6))}): messages get lost and are sent"
            " again. Let it read another queue, or give the pool another one.",
        )


def check_set_aside(installation: Installation) -> Iterator[Finding]:
    settings, prefix = installation.settings, installation.ledger.prefix
    for aside in set_aside_in(
        installation.ledger.client, prefix, map(settings.queue_of, settings.pools)
    ):
        if aside.foreign:
            yield Finding(
                "warning",
                f"queue {aside.queue}",
                f"{aside.foreign:,} messages of another application came to it and are kept. Give"
                " one of the two another queue, then return them:"
                f" {returning_command(prefix, aside.queue, settings.list_of(aside.queue))}",
            )
        if aside.dead:
            yield Finding(
                "warning",
                f"queue {aside.queue}",
                f"{aside.dead:,} entries that are not messages of ours were put aside; the last"
                f" ones are in the list {dead_key(prefix, aside.queue)} (the latest:"
                f" {aside.last_reason}). Delete it when you have seen them.",
            )
