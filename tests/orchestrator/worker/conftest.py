"""One server and one worker of four children for all tests of the workers, and a way to run
pipelines on them."""

from __future__ import annotations

import itertools
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.definition.loading import load
from orchestrator.definition.pipeline import Pipeline
from orchestrator.ledger.connection import connect
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.presence import present_workers
from orchestrator.local.worker import LocalWorker, local_worker
from orchestrator.messages.app import create_app
from orchestrator.record.run import RunRecord
from orchestrator.settings.model import Settings
from orchestrator.settings.pools import PoolSettings
from tests.support.fixtures import PipelineFrom
from tests.support.worker_runs import LIMIT_S, OwnWorker, Runs, states_in

CELERY = str(Path(sys.executable).with_name("celery"))
ROOT = Path(__file__).parents[3]
_module_numbers = itertools.count(1)


@pytest.fixture
def states() -> Callable[[RunRecord], dict[str, str]]:
    """Return the state of every step of a record."""
    return states_in


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    pools = {"cpu": PoolSettings(), "gpu": PoolSettings()}
    return Settings(
        data_dir=tmp_path_factory.mktemp("data"),
        key_prefix="workers",
        pools=pools,
        poll_interval_s=0.1,
        timeout_grace_s=1,
    )


@pytest.fixture(scope="session")
def worker(settings: Settings, shared_redis_url: str) -> Iterator[LocalWorker]:
    """The worker that most tests share: prefork, four children."""
    with local_worker(settings, shared_redis_url, 4, ["cpu"], ready_within_s=LIMIT_S) as started:
        yield started
        started.kill()  # nothing runs any more


@pytest.fixture(scope="session")
def runs_by(settings: Settings, shared_redis_url: str) -> Iterator[Callable[[Settings], Runs]]:
    """Return runs by settings, which name the queues. One app for all: pools of connections belong
    to the process."""
    app = create_app(settings, shared_redis_url)
    with connect(shared_redis_url) as client, app:
        ledger = Ledger(client, settings.key_prefix)
        yield lambda chosen: Runs(chosen, ledger, app)
        app.pool.force_close_all()


@pytest.fixture
def runs_on(shared_redis_url: str) -> Iterator[Callable[[Settings, str], Runs]]:
    """Return runs by settings and server, with an app of their own, which knows the queues of these
    settings."""
    with ExitStack() as opened:

        def make(chosen: Settings, url: str) -> Runs:
            app = opened.enter_context(create_app(chosen, url))
            if url != shared_redis_url:  # else it is the pool of all tests
                opened.callback(app.pool.force_close_all)
            client = opened.enter_context(connect(url))
            return Runs(chosen, Ledger(client, chosen.key_prefix), app)

        yield make


@pytest.fixture(scope="session")
def runs(worker: LocalWorker, runs_by: Callable[[Settings], Runs]) -> Runs:
    """Runs on the shared worker."""
    return runs_by(worker.settings)


@pytest.fixture
def own_worker(
    settings: Settings, shared_redis_url: str, runs_by: Callable[[Settings], Runs]
) -> OwnWorker:
    """Runs on a worker of their own, for what a step does to the child that runs it."""

    @contextmanager
    def start(slots: int = 1, chosen: Settings = settings) -> Iterator[Runs]:
        with local_worker(
            chosen, shared_redis_url, slots, ["cpu"], ready_within_s=LIMIT_S
        ) as started:
            yield runs_by(started.settings)
            started.kill()

    return start


@pytest.fixture
def pipeline_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Pipeline]:
    """Return the pipeline that a Python source describes, from a module of its own."""
    monkeypatch.setattr(sys, "path", [*sys.path])

    def build(source: str, params: Mapping[str, Any] | None = None) -> Pipeline:
        path = tmp_path / f"user_code_{next(_module_numbers)}.py"
        path.write_text(
            "from orchestrator import PipelineBuilder, pipeline, step\n" + textwrap.dedent(source)
        )
        return load(str(path)).build(params)

    return build


@pytest.fixture(scope="session")
def celery_events(runs: Runs, wait_until: Callable[..., None]) -> Iterator[list[dict[str, Any]]]:
    """Collect the Celery events of the server from the first use on."""
    seen: list[dict[str, Any]] = []
    with runs.app.connection_for_read() as connection:
        receiver = runs.app.events.Receiver(connection, handlers={"*": seen.append})
        thread = threading.Thread(target=receiver.capture, kwargs={"wakeup": False})
        thread.start()
        with runs.app.events.default_dispatcher() as dispatcher:
            wait_until(lambda: dispatcher.send("receiver-probe") or seen)
        yield seen
        receiver.should_stop = True
        thread.join(10)
        assert not thread.is_alive()


@dataclass
class HandStarted:
    """A worker started by Celery's own command."""

    process: subprocess.Popen[bytes]
    log_path: Path
    name: str

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")


@pytest.fixture
def start_worker(
    settings: Settings,
    shared_redis_url: str,
    tmp_path: Path,
    runs_by: Callable[[Settings], Runs],
    wait_until: Callable[..., None],
) -> Iterator[Callable[..., tuple[HandStarted, Runs]]]:
    """Start `celery -A workers.app worker` with some options; give it, and runs on its queue, once
    it is there.

    `of` are its settings, on this server, where they are not those of the other tests.
    """
    with ExitStack() as started:

        def start(
            name: str, *options: str, of: Settings | None = None, queue: str = ""
        ) -> tuple[HandStarted, Runs]:
            queue = queue or f"queue-{tmp_path.name}-{name}"
            chosen = of or settings.model_copy(
                update={"redis_url": shared_redis_url, "pools": {"cpu": PoolSettings(queue=queue)}}
            )
            log_path = tmp_path / f"{name}.log"
            command = [
                CELERY,
                "-A",
                "workers.app",
                "worker",
                "-Q",
                queue,
                "-n",
                f"{name}@%h",
                *options,
            ]
            with log_path.open("wb") as log:
                process = subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env=chosen.child_environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            started.callback(_end, process)
            runs = runs_by(chosen)
            client, prefix = runs.ledger.client, chosen.key_prefix
            wait_until(
                lambda: (
                    process.poll() is not None
                    or any(name in card.worker for card in present_workers(client, prefix))
                )
            )
            assert process.poll() is None, log_path.read_text()
            return HandStarted(process, log_path, name), runs

        yield start


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        tree = [process, *psutil.Process(process.pid).children(recursive=True)]
        for member in tree:  # at once: Celery's own shutdown takes three seconds
            member.kill()
    process.wait()


SHELL = """
    shell = PipelineBuilder("shell", params={params!r})
    shell.add("given", "builtins:dict", kwargs={given!r})
    shell.add("command", run={run!r})
"""


@pytest.fixture
def shell(runs: Runs, pipeline_from: PipelineFrom) -> Callable[..., RunRecord]:
    """Run a command below a step `given` whose output is a mapping; give the record."""

    def run(
        command: str,
        params: Mapping[str, Any] | None = None,
        given: Mapping[str, Any] | None = None,
    ) -> RunRecord:
        return runs.run(
            pipeline_from(SHELL.format(run=command, params=params or {}, given=given or {}))
        )

    return run
