"""Sites with real servers, workers and coordinators, where harm may be done."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from orchestrator.ledger.connection import connect
from orchestrator.ledger.server_clock import ServerClock
from orchestrator.messages.app import create_app
from orchestrator.settings.model import Settings
from tests.support.site.server import Server
from tests.support.site.site import Site
from tests.support.site.waiting import close_pools, wait_until
from tests.support.site.workers import is_running


@pytest.fixture(scope="session")
def session_url(shared_redis_url: str) -> Iterator[str]:
    """The URL of the session's server. Pools of connections belong to the process, whichever app
    uses them."""
    yield shared_redis_url
    create_app(Settings(), shared_redis_url).pool.force_close_all()


@pytest.fixture(scope="session")
def lasting_site(session_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with ExitStack() as stack:
        site = Site(session_url, tmp_path_factory.mktemp("shared"), stack)
        site.add_workers(2)
        site.coordinate()
        yield site


@pytest.fixture
def shared(lasting_site: Site) -> Iterator[Site]:
    """Two workers of two children and a coordinator, for harm that they outlive. No run outlives
    its test."""
    yield lasting_site
    for run_id in lasting_site.ledger.active_runs():
        lasting_site.ledger.cancel(run_id, "its test is over")
        wait_until(lambda run_id=run_id: not lasting_site.ledger.leased(run_id))


@pytest.fixture
def new_site(session_url: str, tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Return sites on the session's server, still without workers and coordinators; with settings
    of their own."""
    with ExitStack() as stack:
        yield lambda **changes: Site(session_url, tmp_path, stack, **changes)


@pytest.fixture
def site(new_site: Callable[..., Site]) -> Site:
    """A site of the test's own on the session's server, still without workers and coordinators."""
    return new_site()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server that may be harmed."""
    started = Server(tmp_path / "server")
    try:
        yield started
    finally:
        started.process.send_signal(signal.SIGCONT)
        started.kill()


@pytest.fixture
def server_site(server: Server, tmp_path: Path) -> Iterator[Site]:
    """A site on a server that may be harmed."""
    with ExitStack() as stack:
        site = Site(server.url, tmp_path, stack)
        stack.callback(close_pools, site.app)
        yield site


@pytest.fixture(scope="module")
def lasting_server_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Site]]:
    """A server that may be harmed and a site on it with two workers and a coordinator, for harm
    that they outlive."""
    folder = tmp_path_factory.mktemp("harmed")
    server = Server(folder / "server")
    with ExitStack() as stack:
        stack.callback(server.kill)
        site = Site(server.url, folder, stack)
        stack.callback(close_pools, site.app)
        site.add_workers(2)
        site.coordinate()
        yield server, site


@pytest.fixture(scope="module")
def clock_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Site]]:
    """A server whose clock may be put and a site on it with two coordinators, for one test after
    the other."""
    library = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), None)
    if library is None:
        pytest.skip(
            "the clock of a server can be put only with libfaketime (Debian: apt install faketime)"
        )
    folder = tmp_path_factory.mktemp("clock")
    server = Server(folder / "server", library)
    with ExitStack() as stack:
        stack.callback(server.kill)
        site = Site(server.url, folder, stack)
        stack.callback(close_pools, site.app)
        site.clock = ServerClock(stack.enter_context(connect(server.url)), site.settings.key_prefix)
        site.clock.look()
        site.coordinate(2)
        yield server, site


@pytest.fixture(scope="session")
def runs_still() -> Callable[[int | str], bool]:
    """Whether there is a process of that id, and it is not a zombie."""

    def runs_still(pid: int | str) -> bool:
        try:
            return is_running(psutil.Process(int(pid)))
        except psutil.NoSuchProcess:
            return False

    return runs_still
