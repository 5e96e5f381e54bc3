"""What is logged while the server is away: one line for each change, however long it takes."""

from __future__ import annotations

import threading

import pytest

from tests.support.fixtures import WaitUntil
from tests.support.site.server import Server
from tests.support.site.site import Site


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_an_outage_is_one_line_when_it_begins_and_one_when_it_is_over(
    server: Server, server_site: Site, wait_until: WaitUntil, pool: str
) -> None:
    site = server_site
    worker = site.add_worker(pool=pool)
    site.start_coordinator()
    run = site.submit("""
        @step
        def hold():
            note("began")
            wait_for("go")
    """)
    run.wait_for_note("began")
    run.wait(lambda _: run.ledger.active_runs())

    def logs() -> dict[str, str]:
        return {"worker": worker.log, "coordinator": (site.folder / "serve.log").read_text()}

    failing = {
        "worker": ("leases cannot be renewed", "messages cannot be taken"),
        "coordinator": ("runs cannot be checked",),
    }

    def counts() -> list[int]:
        return [logs()[who].count(text) for who, texts in failing.items() for text in texts]

    wait_until(lambda: "serves" in logs()["coordinator"])
    server.kill()
    wait_until(lambda: counts() == [1, 1, 1])
    after_a_while = {who: text.count("\n") for who, text in logs().items()}
    threading.Event().wait(6)
    assert counts() == [1, 1, 1]
    grown = {who: text.count("\n") - after_a_while[who] for who, text in logs().items()}
    # another part may have noticed meanwhile
    assert all(lines <= 2 for lines in grown.values()), logs()
    server.restart()

    wait_until(lambda: counts() == [2, 2, 2])  # it is said that it is over
    run.note("go")
    assert (
        run.ended(lambda repairs: all(repair.kind == "message.lost" for repair in repairs)).state
        == "succeeded"
    )
    assert not any("Traceback" in text for text in logs().values()), logs()
