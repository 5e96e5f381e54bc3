"""Replacing the child that runs steps, where a step has changed what cannot be put back, or has
left threads running or too many files open.

The child ends between two steps, as one of Celery's does that has run its `max_tasks_per_child`:
the main process has heard how the step went by then, starts another child, and gives that one a
message of which this one has read nothing (`AsynPool.on_partial_read`).
"""

from __future__ import annotations

import errno
import logging
import os
import resource
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

import billiard

_logger = logging.getLogger(__name__)

EX_RECYCLE = 0x9B  # billiard.pool's, for a child that ends as it should
_LIMITS = tuple(
    sorted({value for name, value in vars(resource).items() if name.startswith("RLIMIT_")})
)

_READ: dict[str, Callable[[], Any]] = {
    "resource limits": lambda: [*map(resource.getrlimit, _LIMITS)],
    "niceness": lambda: os.getpriority(os.PRIO_PROCESS, 0),
    "users and groups": lambda: (
        os.getuid(),
        os.geteuid(),
        os.getgid(),
        os.getegid(),
        os.getgroups(),
    ),
    "session or process group": lambda: (os.getsid(0), os.getpgid(0)),
}
if sys.platform.startswith("linux"):
    _READ["CPU affinity or scheduling"] = lambda: (
        os.sched_getaffinity(0),
        os.sched_getscheduler(0),
    )

_at_first: dict[str, Any] | None = None
_is_due = False


def note_threads() -> frozenset[threading.Thread]:
    """Return the threads that are there before a step; remember, at the first, what no step may
    change."""
    global _at_first
    if _at_first is None:
        _at_first = {name: read() for name, read in _READ.items()}
    return frozenset(threading.enumerate())


def renew_if_needed(
    threads_before: frozenset[threading.Thread], not_put_back: Iterable[str], what: str
) -> None:
    """Let this child be replaced if the step that has ended here has left what only that can
    mend."""
    reasons = [f"the step changed the {name}" for name in not_put_back]
    if _at_first is not None:
        reasons += [
            f"the step changed the {name}"
            for name, read in _READ.items()
            if read() != _at_first[name]
        ]
    left = [
        thread.name
        for thread in threading.enumerate()
        if not thread.daemon and thread not in threads_before
    ]
    if left:
        reasons.append(f"the step left {len(left)} threads running ({', '.join(left)[:200]})")
    if _is_short_of_descriptors():
        reasons.append("steps left more than half of the files open that a process may open")
    if reasons:
        renew_soon(f"{what}: {'; '.join(reasons)}")


def _is_short_of_descriptors() -> bool:
    """Return whether the next step would find less than half of the descriptors free. It costs two
    system calls: the next number is the lowest one that is free. Standard input is open:
    `process_state` sees to it.
    """
    try:
        number = os.dup(0)
    except OSError as error:
        return error.errno == errno.EMFILE
    os.close(number)
    return number >= resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2


def renew_soon(reason: str) -> None:
    """End this child after its step, so that another one takes its place."""
    global _is_due
    if not _is_due:
        _logger.warning("process %d is replaced after %s", os.getpid(), reason)
    _is_due = True


def make_renewable() -> None:
    """Let this child end between two steps once it is due; called in a prefork child before its
    first one."""
    worker = getattr(billiard.current_process(), "_target", None)
    wait_for_job = getattr(worker, "wait_for_job", None)
    if wait_for_job is None:
        return

    def wait_unless_due(*arguments: Any, **options: Any) -> Any:
        if _is_due:
            sys.exit(EX_RECYCLE)
        return wait_for_job(*arguments, **options)

    worker.wait_for_job = wait_unless_due  # type: ignore[union-attr]
