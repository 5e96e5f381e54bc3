from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from orchestrator.ledger.ledger import Ledger
from tests.support.incidents import Incidents
from tests.support.webhook import Webhook, serving


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    """A web server to be told."""
    with serving() as hook:
        yield hook


@pytest.fixture
def incidents(ledger: Ledger, wait_until: Callable[..., None]) -> Incidents:
    """Runs that fail, and telling of them."""
    return Incidents(ledger, wait_until)
