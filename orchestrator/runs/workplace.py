"""A server, and workers of our own unless a server is configured, whose workers run the steps."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from orchestrator.cores import available_cores
from orchestrator.installation import Installation, open_installation
from orchestrator.ledger.presence import refuse_older
from orchestrator.local.worker import LocalWorker, local_worker
from orchestrator.settings.model import Settings

RETRIES = 30  # of a call while the server is away, up to 2 s apart


@contextlib.contextmanager
def workplace(
    settings: Settings,
    slots: int | None,
    check: Callable[[Installation], object] = lambda installation: None,
) -> Iterator[tuple[Installation, LocalWorker | None]]:
    """Return an installation, and the workers that were started for it, if any. `slots` is how many
    steps these run at a time: as many as cores, at least 2, if None.

    `check` may raise before any worker is started.
    """
    with contextlib.ExitStack() as stack:
        installation = stack.enter_context(open_installation(RETRIES))
        check(installation)
        refuse_older(installation.ledger.client, installation.ledger.prefix)
        local = None
        if settings.redis_url is None:
            url = installation.redis_url
            local = stack.enter_context(local_worker(settings, url, slots or own_slots()))
        yield installation, local


def own_slots() -> int:
    """Return how many steps workers of our own run at a time, unless somebody says otherwise."""
    return max(2, available_cores())
