"""The command line of a worker, wherever one is started."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.processes.services import WORKER, service_command


def worker_command(
    name: str,
    queues: Iterable[str],
    slots: int,
    *,
    pool_type: str = "prefork",
    log_level: str = "INFO",
    app: str | None = None,
) -> list[str]:
    """Return the command of a worker named `name`@host that reads these queues.

    `app` is a module whose `app` is served instead of ours; it must be on PYTHONPATH.
    """
    served = ("--app", app) if app else ()
    options = ["-Q", ",".join(queues), "-c", str(slots), "-n", f"{name}@%h", "--pool", pool_type]
    quiet = ["--without-gossip", "--without-mingle"]
    return service_command(WORKER, *served, *options, *quiet, "--loglevel", log_level)
