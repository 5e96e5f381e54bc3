"""One real Valkey server for each test session, a part of it for each test, and waiting for a
condition."""

from __future__ import annotations

import gc
import signal
import statistics
import time
import tomllib
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, requires
from itertools import count
from pathlib import Path

import hypothesis
import pytest
import redis
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from orchestrator.ledger.connection import connect
from orchestrator.ledger.ledger import Ledger
from orchestrator.local.server import embedded_server

hypothesis.settings.register_profile("orchestrator", deadline=None, print_blob=True)
hypothesis.settings.load_profile("orchestrator")

# A shell ignores it in what it starts with `&`, and what we start would heed no Ctrl-C either.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an embedded server that lives as long as the session. Other tests have keys and
    queues on it."""
    with embedded_server(tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.fixture(scope="session")
def redis_client(shared_redis_url: str) -> Iterator[redis.Redis]:
    with connect(shared_redis_url) as client:
        yield client


@pytest.fixture(scope="session")
def new_ledger(redis_client: redis.Redis) -> Callable[[], Ledger]:
    """Return ledgers whose keys nobody else has, on the session's server."""
    numbers = count()
    return lambda: Ledger(redis_client, f"test{next(numbers)}")


@pytest.fixture
def ledger(new_ledger: Callable[[], Ledger]) -> Ledger:
    return new_ledger()


CpuGrowth = Callable[[Callable[[], object], Callable[[], object]], float]


@pytest.fixture(scope="session")
def cpu_growth() -> CpuGrowth:
    """Return by how much the CPU time of this process grows from one action to one of twice the
    size.

    Seconds say how busy a machine is; the growth says what the code does: about 2 when it is
    linear, 4 when it is square. A shared machine has slow times that last for many tries, so each
    try is compared with its neighbour alone, and the median of these growths counts.
    """

    def measure(once: Callable[[], object], twice: Callable[[], object]) -> float:
        growths: list[float] = []
        for _ in range(20):
            spent = []
            for action in (once, twice):
                gc.collect()
                gc.disable()  # it looks through all that other tests hold, at sizes of its own
                try:
                    began = time.process_time()
                    action()
                    spent.append(time.process_time() - began)
                finally:
                    gc.enable()
            growths.append(spent[1] / spent[0])
            if len(growths) >= 3 and statistics.median(growths) <= 2.4:
                break
        print(f"CPU time at twice the size: {', '.join(f'{it:.2f}' for it in growths)} times")
        return statistics.median(growths)

    return measure


@pytest.hookimpl(tryfirst=True)  # before markers are looked at
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run tests that measure growth one by one: what others do beside them empties the caches of
    the larger action."""
    for item in items:
        if "cpu_growth" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.alone)


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., None]:
    """Wait for a condition; fail after a limit."""

    def wait(condition: Callable[[], object], within_s: float = 120.0) -> None:
        limit = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < limit, f"not within {within_s:g} s"
            time.sleep(0.01)

    return wait


@pytest.fixture(scope="session")
def needed_distributions() -> set[str]:
    """The distributions that an installation of the package brings: declared dependencies and all
    that they need."""
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())[
        "project"
    ]
    found: set[tuple[str, str]] = set()
    ahead = [(Requirement(text), "") for text in project["dependencies"]]
    while ahead:
        requirement, extra = ahead.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        for wanted in ("", *requirement.extras):
            key = (canonicalize_name(requirement.name), wanted)
            if key not in found:
                found.add(key)
                try:
                    ahead += [
                        (Requirement(text), wanted) for text in requires(requirement.name) or ()
                    ]
                except PackageNotFoundError:
                    pytest.fail(
                        f"{requirement} is declared and not installed here: pip install -e '.[dev]'"
                    )
    return {name for name, _ in found}
