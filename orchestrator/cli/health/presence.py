"""Checks of the processes that are there: workers for each pool, coordinators."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.cli.health.finding import Finding
from orchestrator.installation import Installation
from orchestrator.ledger.presence import present_coordinators, present_workers


def check_workers(installation: Installation) -> Iterator[Finding]:
    """Say who serves each pool. Without any worker nothing can run, except where `run` starts its
    own."""
    cards = present_workers(installation.ledger.client, installation.ledger.prefix)
    if not cards and not installation.is_embedded:
        yield Finding(
            "fault",
            "workers",
            "none: no step can run. Start one for each pool (orchestrator worker).",
        )
    for name in installation.settings.pools:
        queue = installation.settings.queue_of(name)
        serving = [card for card in cards if queue in card.queues]
        if serving:
            slots = sum(card.slots for card in serving)
            yield Finding(
                "ok",
                f"pool {name}",
                f"{slots} slots on {', '.join(card.worker for card in serving)}",
            )
        elif any(queue in card.paused_queues for card in cards):
            yield Finding("fault", f"pool {name}", "no healthy worker serves it, see below")
        elif installation.is_embedded:
            yield Finding("ok", f"pool {name}", "`orchestrator run` starts a worker for it")
        else:
            yield Finding(
                "warning", f"pool {name}", f"no worker serves it: orchestrator worker --pool {name}"
            )


def check_cards(installation: Installation) -> Iterator[Finding]:
    """Say which workers cannot be told apart, and whether they run different versions of Python."""
    cards = present_workers(installation.ledger.client, installation.ledger.prefix)
    for card in cards:
        if card.twin:
            text = (
                f"another worker bears the same name: {card.twin}. Give each its own (orchestrator"
                " worker --name)."
            )
            yield Finding("warning", f"worker {card.worker}", text)
    versions: dict[str, list[str]] = {}
    for card in cards:
        if card.python:
            versions.setdefault(card.python, []).append(card.worker)
    if len(versions) > 1:
        text = "; ".join(
            f"{version} on {', '.join(names)}" for version, names in sorted(versions.items())
        )
        advice = "Outputs that are kept by reference may not be readable on another version."
        yield Finding("warning", "Python versions", f"workers differ: {text}. {advice}")


def check_hosts(installation: Installation) -> Iterator[Finding]:
    """Name the workers that take no steps because of a fault of their host."""
    for card in present_workers(installation.ledger.client, installation.ledger.prefix):
        if card.fault:
            text = f"takes no steps until its own check passes again: {card.fault}"
            yield Finding("warning", f"worker {card.worker}", text)


def check_coordinators(installation: Installation) -> Iterator[Finding]:
    coordinators = present_coordinators(installation.ledger.client, installation.ledger.prefix)
    if coordinators:
        yield Finding("ok", "coordinators", ", ".join(coordinators))
    elif not installation.is_embedded:
        yield Finding(
            "fault",
            "coordinators",
            "none: retries, repairs and alerts wait for one (orchestrator serve)",
        )
