"""Sending chains that the ledger has not said to be ready."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from celery import Celery

from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.values import Chain, Ready
from orchestrator.messages.dispatch import Dispatcher

NO_LEDGER = cast(Ledger, None)  # it is asked only where it has said that there is more


def send_chains(app: Celery, run_id: str, chains: Iterable[Chain]) -> bool:
    """Send chains as a dispatcher does; return whether all were sent."""
    return Dispatcher(app, NO_LEDGER).send(run_id, Ready(chains))
