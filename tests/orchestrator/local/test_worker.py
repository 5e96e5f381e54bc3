"""Local workers: real Celery processes that leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import psutil
import pytest

from orchestrator.errors import LocalWorkerError
from orchestrator.local.server import embedded_server
from orchestrator.local.worker import LocalWorker, local_worker
from orchestrator.settings.model import Settings
from orchestrator.settings.pools import PoolSettings

WaitUntil = Callable[..., None]

APP = """
import os, subprocess, sys, time
from celery import Celery
from orchestrator.redis_url import celery_broker_url
from orchestrator.settings.sources import current_settings

app = Celery(broker=celery_broker_url(current_settings().redis_url))
app.conf.task_ignore_result = True

@app.task(name="report")
def report(path):
    write(path, f"{current_settings().parent_pid} {current_settings().flower_port} {os.getcwd()}")

@app.task(name="nap")
def nap(path, seconds):
    # One child of the session, one that leaves it and one whose parent is gone.
    sleep = [sys.executable, "-c", f"import time; time.sleep({seconds})", path]
    subprocess.Popen(sleep)
    subprocess.Popen(sleep, start_new_session=True)
    subprocess.run([sys.executable, "-c", f"import subprocess; subprocess.Popen({sleep!r})"])
    write(path, "began")
    time.sleep(seconds)
    write(path, "ended")

def write(path, text):
    with open(path + ".new", "w") as file:
        file.write(text)
    os.replace(path + ".new", path)
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    pools = {"cpu": PoolSettings(), "gpu": PoolSettings(queue="cuda")}
    return Settings(data_dir=tmp_path / "data", pools=pools, flower_port=1234, timeout_grace_s=10)


@pytest.fixture
def redis_url(settings: Settings) -> Iterator[str]:
    with embedded_server(settings.data_dir) as url:
        yield url


@pytest.fixture
def import_path(tmp_path: Path) -> Path:
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "tiny_app.py").write_text(APP)
    (folder / "broken_app.py").write_text("import no_such_module\n")
    return folder


def send(redis_url: str, task: str, *args: object, queue: str) -> None:
    """Send from a process of its own, so that this one keeps no Celery app."""
    code = (
        "import sys; from celery import Celery; from orchestrator.redis_url import"
        " celery_broker_url\nCelery(broker=celery_broker_url(sys.argv[1])).send_task(sys.argv[2],"
        " eval(sys.argv[3]), queue=sys.argv[4])"
    )
    subprocess.run([sys.executable, "-c", code, redis_url, task, repr(args), queue], check=True)


def sleepers(marker: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        if (
            str(marker) in (process.info["cmdline"] or ())
            and process.info["status"] != psutil.STATUS_ZOMBIE
        ):
            found.append(process)
    return found


def tree_of(workers: LocalWorker) -> list[psutil.Process]:
    main = psutil.Process(workers.pid)
    return [main, *main.children(recursive=True)]


def is_gone(processes: list[psutil.Process]) -> bool:
    return not any(
        process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes
    )


def test_a_worker_serves_every_pool_with_the_settings_handed_down(
    settings: Settings, redis_url: str, import_path: Path, tmp_path: Path, wait_until: WaitUntil
) -> None:
    with local_worker(
        settings, redis_url, 2, import_path=import_path, app="tiny_app", ready_within_s=20
    ) as workers:
        assert os.getsid(workers.pid) == workers.pid  # Ctrl-C in the terminal does not reach it
        for queue in map(workers.settings.queue_of, ("cpu", "gpu")):
            report = tmp_path / f"report-{queue}"
            send(redis_url, "report", str(report), queue=queue)
            wait_until(report.exists)
            assert report.read_text() == f"{os.getpid()} 1234 {os.getcwd()}"
        tree = tree_of(workers)
        assert len(tree) == 3
        assert workers.alive()
        assert workers.log_path.parent == settings.data_dir / "workers"
        assert "ready." in workers.log_tail()

    assert not workers.alive()
    assert is_gone(tree)


def test_leaving_lets_a_running_step_end_and_ends_what_it_started(
    settings: Settings, redis_url: str, import_path: Path, tmp_path: Path, wait_until: WaitUntil
) -> None:
    marker = tmp_path / "nap"
    with local_worker(settings, redis_url, 1, ["cpu"], import_path, app="tiny_app") as workers:
        send(redis_url, "nap", str(marker), 1, queue=workers.settings.queue_of())
        wait_until(marker.exists)
        assert len(sleepers(marker)) == 3
        workers.stop(10)
        assert marker.read_text() == "ended"
        assert sleepers(marker) == []


def test_a_step_that_outlasts_the_grace_is_ended_with_all_it_started(
    settings: Settings, redis_url: str, import_path: Path, tmp_path: Path, wait_until: WaitUntil
) -> None:
    marker = tmp_path / "nap"
    with local_worker(settings, redis_url, 1, ["cpu"], import_path, app="tiny_app") as workers:
        send(redis_url, "nap", str(marker), 600, queue=workers.settings.queue_of())
        wait_until(marker.exists)
        tree = tree_of(workers)

        workers.stop(0.2)

        assert is_gone(tree)
        assert sleepers(marker) == []
        assert marker.read_text() == "began"


def test_an_exception_kills_the_whole_tree_at_once(
    settings: Settings, redis_url: str, import_path: Path, tmp_path: Path, wait_until: WaitUntil
) -> None:
    marker = tmp_path / "nap"
    with ExitStack() as stack:
        workers = stack.enter_context(
            local_worker(settings, redis_url, 1, ["cpu"], import_path, app="tiny_app")
        )
        send(redis_url, "nap", str(marker), 600, queue=workers.settings.queue_of())
        wait_until(marker.exists)
        tree = tree_of(workers)
        leave = stack.pop_all().__exit__

    assert leave(KeyboardInterrupt, KeyboardInterrupt(), None) is False
    assert is_gone(tree)
    assert sleepers(marker) == []


def test_what_a_dead_worker_left_is_found_and_ended(
    settings: Settings, redis_url: str, import_path: Path, wait_until: WaitUntil
) -> None:
    with local_worker(
        settings, redis_url, 1, import_path=import_path, app="tiny_app", ready_within_s=20
    ) as workers:
        children = tree_of(workers)[1:]
        for child in children:
            child.suspend()  # else it ends by itself when it misses its parent
        os.kill(workers.pid, signal.SIGKILL)
        wait_until(lambda: not workers.alive())

        workers.stop(0)

        assert is_gone(children)


@pytest.mark.parametrize("way", ["stop", "kill"])
def test_what_may_not_be_ended_is_left_and_not_waited_for(
    settings: Settings,
    redis_url: str,
    import_path: Path,
    tmp_path: Path,
    wait_until: WaitUntil,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
) -> None:
    marker = tmp_path / "nap"
    kill = os.kill
    with local_worker(settings, redis_url, 1, ["cpu"], import_path, app="tiny_app") as workers:
        send(redis_url, "nap", str(marker), 600, queue=workers.settings.queue_of())
        wait_until(marker.exists)
        tree = tree_of(workers)
        foreign, *_ = sleepers(marker)

        def refuse(pid: int, signum: int) -> None:
            if pid == foreign.pid:
                raise PermissionError(1, "Operation not permitted")
            kill(pid, signum)

        monkeypatch.setattr(os, "kill", refuse)
        # raises when it waits for the foreign one in vain
        (workers.stop(0.2) if way == "stop" else workers.kill())

        assert sleepers(marker) == [foreign]
        assert is_gone([process for process in tree if process != foreign])
        monkeypatch.undo()
        foreign.kill()


def test_a_worker_that_dies_at_its_start_shows_the_end_of_its_log(
    settings: Settings, redis_url: str, import_path: Path
) -> None:
    with (
        pytest.raises(LocalWorkerError, match=r"ended \(code [12]\)(.|\n)*no_such_module"),
        local_worker(
            settings, redis_url, 1, import_path=import_path, app="broken_app", ready_within_s=20
        ),
    ):
        pass


def test_a_worker_that_is_killed_can_be_started_again_for_its_queues_but_not_for_ever(
    settings: Settings,
    redis_url: str,
    import_path: Path,
    tmp_path: Path,
    wait_until: WaitUntil,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("orchestrator.local.worker.RESTARTS", 2)
    with local_worker(
        settings, redis_url, 1, import_path=import_path, app="tiny_app", ready_within_s=20
    ) as workers:
        for number in (1, 2):
            tree = tree_of(workers)
            os.kill(workers.pid, signal.SIGKILL)
            os.waitid(os.P_PID, workers.pid, os.WEXITED | os.WNOWAIT)
            assert workers.end_remains() == "was killed by signal 9 (SIGKILL)"
            assert is_gone(tree)
            report = tmp_path / f"report-{number}"
            send(redis_url, "report", str(report), queue=workers.settings.queue_of())

            workers.start_again()
            workers.wait_ready(20)

            wait_until(report.exists)  # what lay in the queue meanwhile
            assert len(tree_of(workers)) == 2
        os.kill(workers.pid, signal.SIGKILL)
        os.waitid(os.P_PID, workers.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(LocalWorkerError, match="ended"):
            workers.end_remains()


def test_names_come_back_but_two_at_once_differ(
    settings: Settings, redis_url: str, import_path: Path
) -> None:
    def start() -> AbstractContextManager[LocalWorker]:
        return local_worker(settings, redis_url, 1, import_path=import_path, app="tiny_app")

    with start() as first:
        first.kill()
        with start() as again, start() as second:
            assert again.name == first.name
            assert second.name != first.name
            again.kill()
            second.kill()


def test_an_unknown_pool_is_refused(settings: Settings) -> None:
    with (
        pytest.raises(LocalWorkerError, match="no pool is named 'tpu'; there are cpu, gpu"),
        local_worker(settings, "redis://localhost/0", 1, ["tpu"]),
    ):
        pass
