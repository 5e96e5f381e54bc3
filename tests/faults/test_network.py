"""A worker is cut off from the server: it may commit late if nobody took over, and cannot if
somebody did."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.support.site.server import Server
from tests.support.site.site import Site

HOLDING = """
    @step
    def hold():
        note(f"began-{context.attempt}")
        wait_for(f"go-{context.attempt}")
        note(f"ended-{context.attempt}")
        return context.attempt

    @pipeline
    def holding():
        hold()
"""


class Wire:
    """A way to a server that can be cut: `silent`, so that nobody is told, or by closing every
    connection."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._is_whole, self._is_over = threading.Event(), False
        self._is_whole.set()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._deaf: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def _accept(self) -> None:
        while True:
            near, _ = self._listener.accept()
            if self._is_over:
                near.close()
                return
            self._is_whole.wait()
            far = socket.create_connection(self._address)
            self._sockets += [near, far]
            for ends in ((near, far), (far, near)):
                self._threads.append(threading.Thread(target=self._carry, args=ends, daemon=True))
                self._threads[-1].start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self._is_whole.wait()
                if source not in self._deaf:
                    target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self, *, silent: bool) -> None:
        self._is_whole.clear()
        if not silent:
            for end in self._sockets:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def deafen(self) -> None:
        """Let nothing through any more that comes by the connections of now; new ones work."""
        self._deaf.update(self._sockets)

    def mend(self) -> None:
        self._is_whole.set()

    def close(self) -> None:
        self._is_over = True
        self.mend()
        socket.create_connection(self._listener.getsockname()).close()
        self._accepting.join(5)
        # Only now: a connection that waited for the cut to be mended would miss its end.
        self.cut(silent=False)
        self.mend()
        for thread in self._threads:
            thread.join(5)
        for end in (self._listener, *self._sockets):
            end.close()
        assert not [thread for thread in (self._accepting, *self._threads) if thread.is_alive()]


@pytest.fixture
def wire(server: Server) -> Iterator[Wire]:
    made = Wire(server.address)
    yield made
    made.close()


@pytest.mark.parametrize("silent", [True, False], ids=["in silence", "by closing"])
def test_a_worker_that_was_cut_off_past_its_lease_cannot_commit_what_another_one_took_over(
    server_site: Site, wire: Wire, silent: bool
) -> None:
    site = server_site
    site.at_work(slots=1, redis_url=wire.url)
    run = site.submit(HOLDING)
    run.wait_for_note("began-1")
    site.add_worker(slots=1)

    wire.cut(silent=silent)
    run.wait_for_note("began-2")
    run.note("go-1")
    run.wait_for_note("ended-1")
    run.note("go-2")
    assert run.wait().state == "succeeded"
    wire.mend()

    # The child's late commit is refused, unless its main process hears first that somebody took
    # over, and ends it.
    run.wait(lambda _: run.events("commit.refused") or run.events("attempt.stopped"))
    record = run.ended([("attempt.lost", "hold", "^the lease of worker w1")])
    assert [attempt.outcome for attempt in record.steps["hold"].attempts] == ["lost", "succeeded"]
    assert site.value(record, "hold") == 2


@pytest.mark.parametrize("silent", [True, False], ids=["in silence", "by closing"])
def test_a_worker_that_was_cut_off_commits_late_if_nobody_took_over(
    server_site: Site, wire: Wire, silent: bool
) -> None:
    site = server_site
    site.add_worker(slots=1, redis_url=wire.url)
    run = site.submit(HOLDING)
    run.wait_for_note("began-1")

    wire.cut(silent=silent)
    run.note("go-1")
    run.wait_for_note("ended-1")
    lease_until = run.ledger.due_at(run.run_id, "hold")
    run.wait(lambda _: run.ledger.now_us() > lease_until + 500_000)
    assert run.state("hold") == "running"
    wire.mend()
    run.wait()
    site.coordinate()

    record = run.ended()
    assert [attempt.outcome for attempt in record.steps["hold"].attempts] == ["succeeded"]


def test_a_worker_whose_connections_die_in_silence_keeps_its_lease_through_others(
    server_site: Site, wire: Wire
) -> None:
    """As when a firewall between them has forgotten the connections: the worker is told nothing."""
    site = server_site
    site.at_work(slots=1, redis_url=wire.url)
    run = site.submit(HOLDING)
    run.wait_for_note("began-1")

    wire.deafen()
    deaf_until = run.ledger.due_at(run.run_id, "hold") + 3_000_000 * site.settings.lease_s
    run.wait(lambda _: run.ledger.due_at(run.run_id, "hold") > deaf_until)

    assert not run.events("attempt.lost")
