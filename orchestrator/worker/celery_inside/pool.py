"""Celery's pool of child processes: who its children are, and when one begins or ends.

It relies on private parts of Celery 5.7 and billiard 4; `test_private_parts.py` names each.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from celery.concurrency.asynpool import WORKER_UP

ROUND_S = 0.1


def children_of(pool: Any) -> list[Any]:
    """Return the processes of a pool; none for a pool of threads."""
    return list(getattr(getattr(pool, "_pool", None), "_pool", ()))


def slots_of(worker: Any) -> int:
    """Return how many steps a worker runs at a time, at most."""
    return getattr(worker, "max_concurrency", None) or getattr(worker, "concurrency", None) or 1


def watch_children(
    pool: Any, has_begun: Callable[[int], object], has_ended: Callable[[], object]
) -> None:
    """Call `has_begun` with the process id of each child before it is given anything to do, and
    `has_ended` whenever some have ended, for whatever reason; and let the pool notice a child's
    death at once.

    `has_ended` is called in the thread that forks the children, so there is no child of which the
    pool does not know yet.
    """
    children = getattr(pool, "_pool", None)
    if children is None or not hasattr(children, "_join_exited_workers"):
        return
    join_exited = children._join_exited_workers

    def join_exited_and_say(*arguments: Any, **options: Any) -> Any:
        exited = join_exited(*arguments, **options)
        if exited:
            has_ended()
        return exited

    children._join_exited_workers = join_exited_and_say
    _say_who_begins(pool, children, has_begun)
    _notice_deaths_at_once(children)


def _say_who_begins(pool: Any, children: Any, has_begun: Callable[[int], object]) -> None:
    for child in children_of(pool):
        has_begun(child.pid)
    answers = getattr(getattr(children, "_result_handler", None), "state_handlers", {})
    if is_there := answers.get(WORKER_UP):

        def is_there_and_said(pid: int) -> Any:
            has_begun(pid)
            return is_there(pid)

        answers[WORKER_UP] = is_there_and_said


def _notice_deaths_at_once(children: Any) -> None:
    """Celery waits for the end of a pipe. A dying child closes it a moment before it can be waited
    for, and what it forked may keep it open: either way its death would be noticed by Celery's look
    every 5 s only."""
    track = getattr(children, "_track_child_process", None)
    if track is None or not hasattr(os, "pidfd_open"):
        return

    def track_by_pidfd(child: Any, hub: Any) -> None:
        if getattr(child, "_sentinel_poll", None) is None:
            with suppress(OSError):
                child._sentinel_poll = os.pidfd_open(child.pid)
        track(child, hub)

    children._track_child_process = track_by_pidfd


def listen_to_all(pool: Any) -> None:
    """Let a pool that is ending hear of any child within ROUND_S: Celery sleeps half a second at
    every silent one, in turn, so steps that obey would be taken for deaf."""
    handler = getattr(getattr(pool, "_pool", None), "_result_handler", None)
    flush = getattr(handler, "_flush_outqueue", None)
    if flush is None:
        return  # threads, solo

    def flush_if_it_speaks(fd: int, remove: Any, children: Any, on_state_change: Any) -> Any:
        child = children.get(fd)
        with suppress(OSError):  # it is closed: Celery removes it
            if child is not None and not child.outq._reader.poll(0):
                time.sleep(ROUND_S / len(children))
                return None
        return flush(fd, remove, children, on_state_change)

    handler._flush_outqueue = flush_if_it_speaks  # type: ignore[union-attr]
