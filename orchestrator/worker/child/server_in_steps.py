"""Whether a step may use the orchestrator's server: as its pool says."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator.settings.model import Settings
from orchestrator.settings.sources import STEP_VARIABLE, URL_VARIABLE


@contextmanager
def server_as_the_pool_says(settings: Settings, pool: str | None) -> Iterator[None]:
    """Show the step the server's URL inside the block if its pool says so; else have its processes
    learn to refuse it.

    Steps in threads share the environment, so a worker of threads serves pools that say the same.
    """
    known = settings.pools.get(pool or settings.default_pool)
    if known is None or not known.server_in_steps:
        os.environ[STEP_VARIABLE] = "1"
        yield
        return
    os.environ.pop(STEP_VARIABLE, None)
    os.environ[URL_VARIABLE] = settings.redis_url or ""
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            os.environ.pop(URL_VARIABLE, None)
