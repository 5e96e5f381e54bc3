"""The other side: plain Celery canvas with a Redis result backend.

Celery's defaults, but for what the orchestrator's workers do without too: gossip and mingle. The
prefetch multiplier stays at Celery's 4: 1, 4 and 16 measure alike.
"""

from __future__ import annotations

import time

from celery import Celery, Signature, chain, chord, group
from shapes import Shape

NOOP_TASK = "plain.noop"
CLOCK_TASK = "plain.clock"


def create_plain_app(broker_url: str, queue: str) -> Celery:
    app = Celery("plain", broker=broker_url, backend=broker_url, set_as_current=False)
    app.conf.update(
        task_default_queue=queue,
        broker_connection_retry_on_startup=True,
    )
    app.task(noop, name=NOOP_TASK)
    app.task(clock, name=CLOCK_TASK)
    return app


def noop() -> None:
    return None


def clock() -> float:
    return time.time()


def canvas_of(app: Celery, shape: Shape) -> Signature:
    """Return the canvas of a shape: a chain, a chord, or a chain of groups (a barrier between the
    levels)."""
    levels = shape.levels()
    if max(levels) == 1:
        return chain(*_noops(app, len(levels)))
    if len(levels) == 2 and levels[1] == 1:
        return chord(_noops(app, levels[0]), *_noops(app, 1))
    return chain(*level_groups(app, shape))


def level_groups(app: Celery, shape: Shape) -> list[Signature]:
    """Return a group for each level of a shape, for a client that sends one when the one before has
    ended."""
    return [group(_noops(app, width)) for width in shape.levels()]


def _noops(app: Celery, count: int) -> list[Signature]:
    return [app.tasks[NOOP_TASK].si() for _ in range(count)]
