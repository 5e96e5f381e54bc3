"""The two sides of the comparison on one embedded server, each with a warm worker of its own."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plain_celery
from celery import Celery
from celery.exceptions import TimeoutError as ResultTimeout
from redis import Redis
from shapes import Shape, chain, fan

from orchestrator.coordinator.coordinator import Coordinator
from orchestrator.ledger.connection import connect
from orchestrator.ledger.ledger import Ledger
from orchestrator.local.server import embedded_server
from orchestrator.local.worker import LocalWorker, local_worker
from orchestrator.messages.app import create_app
from orchestrator.plan.compile import compile_pipeline
from orchestrator.plan.plan import Plan
from orchestrator.redis_url import celery_broker_url
from orchestrator.runs.submission import submit
from orchestrator.settings.model import Settings

SLOTS = 2
READY_LIMIT_S = 60.0
POLL_S = 0.005
HERE = Path(__file__).parent


class MeasureFailed(Exception):
    """A run did not end well or not in time; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One measured run, in seconds: from the call that submits it to its end, and to the start of
    its first step."""

    total_s: float
    first_start_s: float


@dataclass(frozen=True, slots=True)
class Ours:
    """The orchestrator. The end of a run and the start of a step are read from the ledger's
    record."""

    settings: Settings
    ledger: Ledger
    app: Celery
    worker: LocalWorker

    def plan(self, shape: Shape) -> Plan:
        return compile_pipeline(shape.pipeline())

    def run(self, plan: Plan, within_s: float, *, is_forgotten: bool = True) -> Sample:
        client = self.ledger.client
        began = time.time()
        run_id = submit(plan, self.ledger, self.app, self.settings)
        key = self.ledger.key(run_id, "run")
        # The run's hash is polled, since reading its events would take time from the workers on the
        # same cores.
        while not (ended_at := client.hget(key, "ended_at")):
            self.worker.check()
            if time.time() - began > within_s:
                raise MeasureFailed(
                    f"our run of {plan.pipeline.name} has not ended after {within_s:g} s:"
                    f" {self.ledger.run_fields(run_id)}\nThe end of the worker's"
                    f" log:\n{self.worker.log_tail()}"
                )
            time.sleep(POLL_S)
        fields = self.ledger.run_fields(run_id)
        if fields["state"] != "succeeded" or fields.get("n:succeeded") != str(len(plan.order)):
            raise MeasureFailed(f"our run of {plan.pipeline.name} is {fields['state']}: {fields}")
        if is_forgotten:
            self.forget(run_id)
        return Sample(int(str(ended_at)) / 1e6 - began, int(fields["started_at"]) / 1e6 - began)

    def forget(self, run_id: str) -> None:
        """Take a run's keys out of the server, so that samples do not pile up."""
        self.ledger.unwatch_run(run_id)
        _unlink(self.ledger.client, self.ledger.key(run_id, "*"))


@dataclass(frozen=True, slots=True)
class Plain:
    """Plain Celery canvas, results on. The end is when the result is here."""

    app: Celery
    client: Redis
    worker: LocalWorker

    def run(self, shape: Shape, within_s: float) -> float:
        """Return the seconds that the shape takes as one canvas."""
        canvas = plain_celery.canvas_of(self.app, shape)
        began = time.time()
        self._get(canvas.apply_async(), shape.name, within_s)
        return self._ended(began)

    def run_by_levels(self, shape: Shape, within_s: float) -> float:
        """Return the seconds that the shape takes as one group for each level, each sent when the
        last has ended."""
        groups = plain_celery.level_groups(self.app, shape)
        began = time.time()
        for number, level in enumerate(groups):
            self._get(level.apply_async(), f"{shape.name} at level {number}", within_s)
        return self._ended(began)

    def _ended(self, began: float) -> float:
        took_s = time.time() - began
        _unlink(self.client, "celery-task*")
        return took_s

    def first_start_s(self, within_s: float) -> float:
        """Return the seconds from apply_async of one task until it runs."""
        began = time.time()
        return (
            float(
                self._get(
                    self.app.tasks[plain_celery.CLOCK_TASK].apply_async(), "one task", within_s
                )
            )
            - began
        )

    def _get(self, result: Any, name: str, within_s: float) -> Any:
        limit = time.monotonic() + within_s
        while True:
            try:
                return result.get(timeout=min(5.0, within_s), interval=POLL_S)
            except ResultTimeout:
                self.worker.check()
                if time.monotonic() > limit:
                    raise MeasureFailed(
                        f"plain Celery's {name} has not ended after {within_s:g} s"
                    ) from None


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """Return the URL of an embedded server whose append-only file is on, but never rewritten: no
    fork in a sample."""
    with embedded_server(folder) as url:
        client = connect(url)
        client.config_set("auto-aof-rewrite-percentage", 0)
        yield url


@contextmanager
def both_sides(url: str, folder: Path, *, events: bool) -> Iterator[tuple[Ours, Plain]]:
    """Return both sides with warm workers; with `events`, each has a consumer of its Celery events
    as well."""
    settings = Settings(data_dir=folder, celery_events=events)
    with ExitStack() as stack:
        ours_url, plain_url = url, url.replace("db=0", "db=1")
        ours = _ours(stack, settings, ours_url)
        plain_worker = stack.enter_context(
            local_worker(
                settings,
                plain_url,
                SLOTS,
                import_path=HERE,
                app="plain_worker",
                ready_within_s=READY_LIMIT_S,
            )
        )
        app = plain_celery.create_plain_app(
            celery_broker_url(plain_url), plain_worker.settings.queue_of()
        )
        plain = Plain(app, connect(plain_url), plain_worker)
        # Without this a Celery result that is dropped later looks for a server that is gone, and
        # says so.
        stack.callback(app.backend.result_consumer.subscribed_to.clear)
        if events:
            for watched in (ours_url, plain_url):
                stack.enter_context(_event_watcher(celery_broker_url(watched)))
        for shape in (chain(50), fan(100)):
            ours.run(ours.plan(shape), READY_LIMIT_S)
            plain.run(shape, READY_LIMIT_S)
        yield ours, plain


@contextmanager
def with_and_without_net(url: str, folder: Path) -> Iterator[tuple[Ours, Ours]]:
    """Return our side twice with warm workers: with default leases and a coordinator that looks for
    what is lost, and with neither (a lease that lasts for hours is renewed once in an hour, and
    nobody looks)."""
    settings, stopped = Settings(data_dir=folder, celery_events=False), threading.Event()
    with ExitStack() as stack:
        netted = _ours(stack, settings, url)
        bare = _ours(
            stack, settings.model_copy(update={"lease_s": 10_000.0, "key_prefix": "bare"}), url
        )
        coordinator = threading.Thread(
            target=Coordinator(netted.ledger, netted.app, settings).serve, args=(stopped,)
        )
        coordinator.start()
        stack.callback(coordinator.join)
        stack.callback(stopped.set)
        for shape in (chain(50), fan(100)):
            for side in (netted, bare):
                side.run(side.plan(shape), READY_LIMIT_S)
        yield netted, bare


def _ours(stack: ExitStack, settings: Settings, url: str) -> Ours:
    worker = stack.enter_context(
        local_worker(settings, url, SLOTS, import_path=HERE, ready_within_s=READY_LIMIT_S)
    )
    ledger = Ledger(connect(url), settings.key_prefix)
    return Ours(worker.settings, ledger, create_app(worker.settings, url), worker)


@contextmanager
def _event_watcher(broker_url: str) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, str(HERE / "event_watcher.py"), broker_url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        if process.stdout is None or process.stdout.readline().strip() != b"ready":
            raise MeasureFailed("the consumer of Celery events did not start")
        yield
    finally:
        process.kill()
        process.wait()


def _unlink(client: Redis, pattern: str) -> None:
    keys = list(client.scan_iter(pattern, count=1000))
    for start in range(0, len(keys), 1000):
        client.unlink(*keys[start : start + 1000])
