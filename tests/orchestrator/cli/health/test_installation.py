"""What `doctor` says of an installation on a server: who is there, sizes, and what a container
needs of its own."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import redis

from orchestrator.cli.health.finding import Finding
from orchestrator.cli.health.own import check_own_coordinator, check_own_flower, check_own_worker
from orchestrator.cli.health.presence import (
    check_cards,
    check_coordinators,
    check_hosts,
    check_workers,
)
from orchestrator.cli.health.sizes import (
    FILES_COUNTED,
    check_disk,
    check_memory,
    check_run_sizes,
)
from orchestrator.installation import Installation
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.presence import (
    CoordinatorCard,
    WorkerCard,
    announce_coordinator,
    announce_worker,
)
from orchestrator.settings.model import Settings
from orchestrator.settings.pools import PoolSettings
from tests.support.runs import start_graph

HERE = socket.gethostname()
POOLS = {"cpu": PoolSettings(queue="here-cpu"), "gpu": PoolSettings(queue="here-gpu")}


def session_on(ledger: Ledger, *, is_embedded: bool = False) -> Installation:
    return Installation(Settings(pools=POOLS), "redis://somewhere", ledger, is_embedded)


def announce(
    ledger: Ledger, name: str, queues: tuple[str, ...] = ("here-cpu",), **more
) -> WorkerCard | None:
    card = WorkerCard(name, queues, 2, "prefork", more.pop("host", HERE), 7, **more)
    return announce_worker(ledger.client, ledger.prefix, card)


def levels(findings: Iterator[Finding]) -> dict[str, str]:
    return {finding.what: finding.level for finding in findings}


@pytest.mark.parametrize("is_embedded", [True, False])
def test_nothing_can_run_without_a_worker_and_a_coordinator_except_on_the_embedded_server(
    ledger: Ledger, is_embedded: bool
) -> None:
    session = session_on(ledger, is_embedded=is_embedded)
    found = [*check_workers(session), *check_coordinators(session)]
    faults = {finding.what for finding in found if finding.level == "fault"}
    assert faults == (set() if is_embedded else {"workers", "coordinators"})

    announce(ledger, "w@h")
    announce_coordinator(ledger.client, ledger.prefix, CoordinatorCard("c", HERE, 2, "3.11"))
    assert levels(check_coordinators(session)) == {"coordinators": "ok"}
    assert levels(check_workers(session)) == {
        "pool cpu": "ok",
        "pool gpu": "ok" if is_embedded else "warning",
    }


def test_a_pool_whose_workers_are_all_hindered_is_a_fault_and_names_them(ledger: Ledger) -> None:
    session = session_on(ledger)
    announce(ledger, "w@h", (), fault="the store is full", paused_queues=("here-cpu",))

    assert levels(check_workers(session))["pool cpu"] == "fault"
    (finding,) = check_hosts(session)
    assert finding.what == "worker w@h"
    assert "the store is full" in finding.found


def test_twins_and_mixed_versions_of_python_are_named(ledger: Ledger) -> None:
    session = session_on(ledger)
    announce(ledger, "w@h", python="3.11")
    assert list(check_cards(session)) == []
    announce(ledger, "v@h", python="3.12", twin="process 9 of host other")

    found = {finding.what: finding for finding in check_cards(session)}

    assert {finding.level for finding in found.values()} == {"warning"}
    assert "process 9 of host other" in found["worker v@h"].found
    assert "3.11 on w@h; 3.12 on v@h" in found["Python versions"].found


def test_a_sign_of_life_shows_whose_card_was_there_before(ledger: Ledger) -> None:
    assert announce(ledger, "w@h", incarnation="one") is None
    before = announce(ledger, "w@h", incarnation="two")
    assert before is not None
    assert before.incarnation == "one"


def test_what_a_container_needs_is_its_own_worker_and_its_own_coordinator(ledger: Ledger) -> None:
    session = session_on(ledger)
    announce(ledger, "w@other", host="other")
    other = CoordinatorCard("c1", "other", 1, "3.11")
    announce_coordinator(ledger.client, ledger.prefix, other)
    assert [it.level for it in (*check_own_worker(session), *check_own_coordinator(session))] == [
        "fault",
        "fault",
    ]

    announce(ledger, "w@here")
    announce_coordinator(ledger.client, ledger.prefix, CoordinatorCard("c2", HERE, 2, "3.11"))
    assert [it.level for it in (*check_own_worker(session), *check_own_coordinator(session))] == [
        "ok",
        "ok",
    ]

    announce(ledger, "w@here", (), fault="the store is full", paused_queues=("here-cpu",))
    assert [it.level for it in check_own_worker(session)] == ["fault"]


def test_the_health_check_of_flower_asks_flower_itself() -> None:
    class Healthy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/healthcheck" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Healthy) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        chosen = Settings(flower_port=server.server_port, flower_address="0.0.0.0")
        try:
            assert [it.level for it in check_own_flower(chosen)] == ["ok"]
        finally:
            server.shutdown()
            thread.join()
    assert [it.level for it in check_own_flower(chosen)] == ["fault"]


@pytest.mark.parametrize(("share", "level"), [(0.5, "fault"), (1.1, "warning"), (1.5, "ok")])
def test_memory_is_warned_of_before_it_is_full(
    own_server: redis.Redis, share: float, level: str, new_ledger: Callable[[], Ledger]
) -> None:
    used = own_server.info("memory")["used_memory"]
    own_server.config_set("maxmemory", round(share * used))

    (finding,) = check_memory(session_on(Ledger(own_server, "memory")))

    assert (finding.what, finding.level) == ("memory", level)


@pytest.fixture
def own_server(shared_redis_url: str) -> Iterator[redis.Redis]:
    """The session's server, whose memory is given back its freedom afterwards."""
    with redis.Redis.from_url(shared_redis_url, decode_responses=True) as client:
        yield client
        client.config_set("maxmemory", 0)


def test_the_sizes_of_runs_are_told_without_reading_them_whole(ledger: Ledger) -> None:
    session = session_on(ledger)
    assert list(check_run_sizes(session)) == []
    small = start_graph(ledger, {"a": ""})
    large = start_graph(ledger, {f"s{number}": "" for number in range(500)})

    (finding,) = check_run_sizes(session)

    assert finding.level == "ok"
    assert finding.found.startswith("2 kept, they take ")
    assert f"the largest is {large}: " in finding.found
    assert small not in finding.found


def test_the_folder_of_artifacts_is_measured_up_to_a_number_of_files(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"folder-{number % 3}").mkdir(exist_ok=True)
        (tmp_path / f"folder-{number % 3}" / str(number)).write_bytes(bytes(1000))

    (finding,) = check_disk(Settings(artifact_dir=tmp_path))

    assert "30 kB in 30 files, disk " in finding.found
    assert FILES_COUNTED >= 1000
    assert list(check_disk(Settings(artifact_dir=tmp_path / "none"))) == []


def test_a_disk_is_warned_of_before_it_is_full(tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        assert [it.level for it in check_disk(Settings(artifact_dir=tmp_path))] == ["ok"]
        (tmp_path / "ballast").write_bytes(bytes(960 * 1024))
        assert [it.level for it in check_disk(Settings(artifact_dir=tmp_path))] == ["warning"]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
