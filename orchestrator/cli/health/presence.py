"""Checks of who is there: workers for each pool, coordinators."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.cli.health.finding import Finding
from orchestrator.cli.session import Session
from orchestrator.ledger.presence import present_coordinators, present_workers


def check_workers(session: Session) -> Iterator[Finding]:
    cards = present_workers(session.ledger.client, session.ledger.prefix)
    for name in session.settings.pools:
        queue = session.settings.queue_of(name)
        serving = [card for card in cards if queue in card.queues]
        if serving:
            slots = sum(card.slots for card in serving)
            yield Finding("ok", f"pool {name}", f"{slots} slots on {', '.join(card.worker for card in serving)}")
        elif any(queue in card.paused_queues for card in cards):
            yield Finding("fault", f"pool {name}", "no healthy worker serves it, see below")
        elif session.is_embedded:
            yield Finding("ok", f"pool {name}", "`orchestrator run` starts a worker for it")
        else:
            yield Finding("warning", f"pool {name}", f"no worker serves it: orchestrator worker --pool {name}")


def check_hosts(session: Session) -> Iterator[Finding]:
    """Tell of workers that take no steps because of a fault of their host."""
    for card in present_workers(session.ledger.client, session.ledger.prefix):
        if card.fault:
            told = f"takes no steps until its own check passes again: {card.fault}"
            yield Finding("warning", f"worker {card.worker}", told)


def check_coordinators(session: Session) -> Iterator[Finding]:
    coordinators = present_coordinators(session.ledger.client, session.ledger.prefix)
    if coordinators:
        yield Finding("ok", "coordinators", ", ".join(coordinators))
    elif not session.is_embedded:
        yield Finding("warning", "coordinators", "none: retries, repairs and alerts wait for one (orchestrator serve)")
