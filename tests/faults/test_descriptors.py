"""The server restarts again and again: nobody's open descriptors grow by it."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from contextlib import suppress

from tests.support.fixtures import WaitUntil
from tests.support.site.server import Server
from tests.support.site.site import Site

WORKING = """
    @step
    def works(number):
        return os.getpid()

    @pipeline
    def working():
        for number in range(4):
            works.options(name=f"works-{number}")(number)
"""
ROUNDS = 5


def descriptors(pid: int) -> Counter[str]:
    """Count the descriptors of a process by what they are."""
    found: Counter[str] = Counter()
    for name in os.listdir(f"/proc/{pid}/fd"):
        with suppress(OSError):
            found[os.readlink(f"/proc/{pid}/fd/{name}").partition("[")[0]] += 1
    return found


def test_descriptors_do_not_grow_with_restarts_of_the_server(
    server: Server, server_site: Site, wait_until: WaitUntil
) -> None:
    worker = server_site.add_worker(slots=1)
    coordinator = server_site.start_coordinator()

    def processes() -> dict[str, int]:
        (child,) = worker.children()
        return {"worker": worker.process.pid, "coordinator": coordinator.pid, "child": child.pid}

    def restart(times: int) -> None:
        for _ in range(times):
            server.kill()
            server.restart()
            server_site.submit(WORKING).wait(lambda record: record.state.is_ended)

    server_site.submit(WORKING).wait(lambda record: record.state.is_ended)
    # Each thread may have a connection of its own to the server, and gets it when two need one at
    # once.
    most = defaultdict(Counter)
    for _ in range(ROUNDS):
        restart(1)
        for name, pid in processes().items():
            most[name] |= descriptors(pid)
    restart(2 * ROUNDS)

    for name, pid in processes().items():
        wait_until(lambda pid=pid, name=name: descriptors(pid) <= most[name])
