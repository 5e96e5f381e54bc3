from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from incidents import Incidents
from webhook import Webhook, serving

from orchestrator.ledger.ledger import Ledger


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    """A web server to be told."""
    with serving() as hook:
        yield hook


@pytest.fixture
def incidents(ledger: Ledger, wait_until: Callable[..., None]) -> Incidents:
    """Runs that fail, and telling of them."""
    return Incidents(ledger, wait_until)
