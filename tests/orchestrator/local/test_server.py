"""The embedded server: one for a folder, as long as someone uses it, whatever dies."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import redis
from kombu import Connection

from orchestrator.errors import EmbeddedServerError
from orchestrator.local import server
from orchestrator.local.server import embedded_server
from orchestrator.redis_url import celery_broker_url

WaitUntil = Callable[..., None]
ProcessesOf = Callable[[Path], list[str]]
UserProcess = Callable[[Path], "subprocess.Popen[str]"]


def client_of(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, decode_responses=True)


def read_url(user: subprocess.Popen[str]) -> str:
    assert user.stdout is not None
    return user.stdout.readline().strip()


def end(user: subprocess.Popen[str]) -> int:
    assert user.stdin is not None
    user.stdin.close()
    return user.wait(20)


def keeper_pid(data_dir: Path) -> int:
    return int((data_dir / "valkey" / "keeper.lock").read_text())


def test_it_answers_and_leaves_nothing_running(data_dir: Path, processes_of: ProcessesOf) -> None:
    with embedded_server(data_dir) as url, client_of(url) as client:
        assert client.ping()
        config = client.config_get("*")
        assert len(processes_of(data_dir)) == 2  # keeper and Valkey

    assert processes_of(data_dir) == []
    expected = {
        "port": "0",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
        "save": "",
    }
    assert {name: config[name] for name in expected} == expected


def test_data_survives_to_the_next_start(data_dir: Path) -> None:
    with embedded_server(data_dir) as url, client_of(url) as client:
        client.set("kept", "yes")

    with embedded_server(data_dir) as url, client_of(url) as client:
        assert client.get("kept") == "yes"


def test_redis_py_and_kombu_reach_the_same_database(data_dir: Path) -> None:
    with embedded_server(data_dir) as url:
        second = url.replace("db=0", "db=2")
        with Connection(celery_broker_url(second)) as broker, client_of(second) as client:
            broker.default_channel.client.set("from", "kombu")
            assert client.get("from") == "kombu"


def test_the_socket_is_short_and_private_however_long_the_folder_is(tmp_path: Path) -> None:
    data_dir = tmp_path / ("d" * 100) / ("e" * 100)

    with embedded_server(data_dir) as url:
        path = Path(url.removeprefix("unix://").removesuffix("?db=0"))
        assert len(os.fsencode(path)) < 100
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert path.stat().st_mode & 0o777 == 0o700
    assert not path.exists()


def test_a_user_that_is_killed_counts_as_gone(
    data_dir: Path, user_process: UserProcess, processes_of: ProcessesOf, wait_until: WaitUntil
) -> None:
    user = user_process(data_dir)
    with client_of(read_url(user)) as client:
        client.set("kept", "yes")

    user.kill()
    user.wait()

    wait_until(lambda: not processes_of(data_dir))
    with embedded_server(data_dir) as url, client_of(url) as client:
        assert client.get("kept") == "yes"


def test_the_first_user_leaves_and_the_second_goes_on(
    data_dir: Path, user_process: UserProcess, processes_of: ProcessesOf
) -> None:
    first = user_process(data_dir)
    first_url = read_url(first)
    with embedded_server(data_dir) as url, client_of(url) as client:
        assert url == first_url
        client.set("kept", "yes")

        assert end(first) == 0

        assert client.get("kept") == "yes"
    assert processes_of(data_dir) == []


def test_the_starter_leaves_first_and_the_keeper_is_no_zombie(
    data_dir: Path, user_process: UserProcess
) -> None:
    with embedded_server(data_dir):
        second = user_process(data_dir)
        url = read_url(second)

    with client_of(url) as client:
        assert client.ping()
    assert end(second) == 0  # the data_dir fixture waits until this process has reaped the keeper


def test_one_process_may_be_inside_twice(data_dir: Path) -> None:
    with embedded_server(data_dir) as outer:
        with embedded_server(data_dir) as inner:
            assert inner == outer
        with client_of(outer) as client:
            assert client.ping()


def test_five_that_start_at_once_get_one_server(
    data_dir: Path, user_process: UserProcess, processes_of: ProcessesOf
) -> None:
    users = [user_process(data_dir) for _ in range(5)]
    urls = {read_url(user) for user in users}

    assert len(urls) == 1
    with client_of(urls.pop()) as client:
        pid = client.info("server")["process_id"]
    assert len(processes_of(data_dir)) == 2
    assert psutil.Process(pid).ppid() == keeper_pid(data_dir)
    assert [end(user) for user in users] == [0] * 5
    assert processes_of(data_dir) == []


def test_users_that_come_and_go_at_once_always_meet_a_server(
    data_dir: Path, user_process: UserProcess
) -> None:
    for _ in range(3):
        users = [user_process(data_dir) for _ in range(3)]
        for user in users:
            with client_of(read_url(user)) as client:
                client.incr("met")
            assert end(user) == 0

    with embedded_server(data_dir) as url, client_of(url) as client:
        assert client.get("met") == "9"


def test_a_killed_keeper_takes_the_server_along_and_is_replaced(
    data_dir: Path, processes_of: ProcessesOf, wait_until: WaitUntil
) -> None:
    with embedded_server(data_dir) as url, client_of(url) as client:
        client.set("kept", "yes")
        psutil.Process(keeper_pid(data_dir)).kill()
        wait_until(lambda: not processes_of(data_dir))

        with embedded_server(data_dir) as again, client_of(again) as other:
            assert again == url
            assert other.get("kept") == "yes"


def test_a_server_without_keeper_is_replaced_without_loss(
    data_dir: Path, wait_until: WaitUntil
) -> None:
    """As on a system that cannot tie the server's life to its keeper's."""
    folder = data_dir / "valkey"
    folder.mkdir(parents=True)
    address = server._new_address(folder)
    (folder / "address").write_text(address)
    code = (
        "import sys; from pathlib import Path; from orchestrator.local import keeper\n"
        "keeper._death_signal = lambda: None; keeper.main(Path(sys.argv[1]), *sys.argv[2:])"
    )
    using = server._open_lock(folder, "users.lock")
    fcntl.flock(using, fcntl.LOCK_SH)
    command = [sys.executable, "-c", code, str(folder), address, server._valkey_binary()]
    with subprocess.Popen(command) as keeper, client_of(f"unix://{address}") as client:
        wait_until(lambda: Path(address).exists())
        client.set("kept", "yes")
        orphan = client.info("server")["process_id"]
        keeper.kill()
        keeper.wait()
        assert client.ping()

    with embedded_server(data_dir) as url, client_of(url) as client:
        assert client.get("kept") == "yes"
        assert client.info("server")["process_id"] != orphan
        os.close(using)


def test_a_stale_socket_file_is_no_obstacle(data_dir: Path) -> None:
    with embedded_server(data_dir) as url:
        path = url.removeprefix("unix://").removesuffix("?db=0")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    assert Path(path).exists()

    with embedded_server(data_dir) as again, client_of(again) as client:
        assert again == url
        assert client.ping()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with (
        pytest.raises(
            EmbeddedServerError,
            match=r"data folder .*file/data cannot be written .*ORCHESTRATOR_DATA_DIR",
        ),
        embedded_server(tmp_path / "file" / "data"),
    ):
        pass


def test_a_server_that_cannot_start_shows_the_end_of_its_log(
    data_dir: Path, processes_of: ProcessesOf
) -> None:
    with embedded_server(data_dir) as url, client_of(url) as client:
        client.set("kept", "yes")
    for part in (data_dir / "valkey" / "appendonlydir").glob("*.manifest"):
        part.write_text("no manifest\n")

    with (
        pytest.raises(EmbeddedServerError, match=r"ended at its start(.|\n)*manifest"),
        embedded_server(data_dir),
    ):
        pass
    assert processes_of(data_dir) == []


def test_a_socket_folder_that_others_may_enter_is_not_trusted(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_to_all = tmp_path / f"orchestrator-{os.geteuid()}"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))

    with embedded_server(data_dir) as url:
        assert not url.startswith(f"unix://{open_to_all}")
