"""Checks of one service from inside its own container, for its health check: only what that service
itself needs."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from urllib.error import URLError
from urllib.request import urlopen

from orchestrator.cli.health.finding import Finding
from orchestrator.installation import Installation
from orchestrator.ledger.presence import coordinator_cards, present_workers
from orchestrator.settings.model import Settings

FLOWER_ANSWERS_S = 5.0
ANY_ADDRESS = {"", "0.0.0.0", "::"}


def check_own_worker(installation: Installation) -> Iterator[Finding]:
    """See that a worker of this host is there and takes steps."""
    host = socket.gethostname()
    client, prefix = installation.ledger.client, installation.ledger.prefix
    own = [card for card in present_workers(client, prefix) if card.host == host]
    if not own:
        yield Finding("fault", "worker", f"none of host {host} gives a sign of life")
    for card in own:
        if card.fault:
            yield Finding("fault", f"worker {card.worker}", f"takes no steps: {card.fault}")
        else:
            yield Finding("ok", f"worker {card.worker}", f"is there, process {card.pid}")


def check_own_coordinator(installation: Installation) -> Iterator[Finding]:
    """See that a coordinator of this host goes its rounds."""
    host = socket.gethostname()
    client, prefix = installation.ledger.client, installation.ledger.prefix
    own = [card for card in coordinator_cards(client, prefix) if card.host == host]
    if own:
        yield Finding("ok", "coordinator", ", ".join(card.name for card in own))
    else:
        yield Finding("fault", "coordinator", f"none of host {host} gives a sign of life")


def check_own_flower(settings: Settings) -> Iterator[Finding]:
    """See that Flower answers here."""
    address = settings.flower_address
    host = "127.0.0.1" if address in ANY_ADDRESS else address
    url = f"http://{f'[{host}]' if ':' in host else host}:{settings.flower_port}/healthcheck"
    try:
        with urlopen(url, timeout=FLOWER_ANSWERS_S) as answer:
            answer.read()
        yield Finding("ok", "flower", f"{url} answers")
    except (URLError, OSError) as error:
        yield Finding(
            "fault", "flower", f"{url} does not answer: {getattr(error, 'reason', None) or error}"
        )
