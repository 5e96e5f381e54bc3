"""Waiting for what must come, and closing what was opened."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from celery import Celery
from kombu import pools

from tests.support.site.constants import LIMIT_S


def wait_until(condition: Callable[[], object], within_s: float = LIMIT_S) -> None:
    limit = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < limit, f"not within {within_s:g} s"
        time.sleep(0.01)


def close_pools(app: Celery) -> None:
    """Close an app's connections, and let nobody find their pools again: another server may get the
    same port."""
    app.pool.force_close_all()
    for group in (pools.connections, pools.producers):
        with suppress(KeyError):
            del group[app.connection_for_write()]
