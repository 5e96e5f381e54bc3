"""A site: a corner of a real server with workers, coordinators and runs of its own, where harm may
be done.

Every process that is started for a site bears the site's mark in its environment, and so does all
that its steps start, wherever it is adopted: whatever bears the mark and is not a worker's own
process was left behind.
"""

from __future__ import annotations

import itertools
import os
import re
import secrets
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from orchestrator.artifacts.outputs import decode_output
from orchestrator.artifacts.values import ArtifactStore
from orchestrator.coordinator.coordinator import Coordinator
from orchestrator.definition.loading import load
from orchestrator.definition.pipeline import Pipeline
from orchestrator.ledger.connection import connect
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.presence import WorkerCard, present_workers
from orchestrator.ledger.server_clock import ServerClock
from orchestrator.messages.app import create_app
from orchestrator.messages.queues import queue_keys
from orchestrator.plan.compile import compile_pipeline
from orchestrator.record.run import RunRecord
from orchestrator.runs.submission import submit
from orchestrator.settings.model import Settings
from orchestrator.settings.pools import PoolSettings
from tests.support.site.constants import BIN, GONE_LIMIT_S, GRACE_S, LEASE_S, MARK, ROOT, USER_CODE
from tests.support.site.run import Run
from tests.support.site.waiting import wait_until
from tests.support.site.workers import Worker, count_named, marked


def _with_pipeline(source: str) -> str:
    steps = re.findall(r"@step(?:\(.*\))?\ndef (\w+)\(", source)
    if not steps or "@pipeline" in source or "PipelineBuilder(" in source:
        return source
    calls = "(".join(reversed(steps)) + "()" + ")" * (len(steps) - 1)
    return f"{source}\n@pipeline\ndef chain():\n    {calls}\n"


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
        self._worker_numbers: Iterator[object] = itertools.count(1)
        self.clock: ServerClock | None = None  # of a server whose clock is put
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

    def at_work(self, **options: Any) -> Worker:
        """Add a worker and a coordinator."""
        worker = self.add_worker(**options)
        self.coordinate()
        return worker

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
        """Return the pipeline that a Python source describes, in a folder of its own. Steps without
        a pipeline are a chain: each gets the value of the one before."""
        self._folders += 1
        folder = self.folder / f"run-{self._folders}"
        folder.mkdir()
        path = folder / f"steps_{self.mark.replace('-', '_')}_{self._folders}.py"
        path.write_text(USER_CODE + _with_pipeline(textwrap.dedent(source)))
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
        return count_named(marked(self.mark), name)

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


NewSite = Callable[..., Site]
