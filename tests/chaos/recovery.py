"""How long recovery takes, as distributions: the same harm done many times to real processes.

    python tests/chaos/recovery.py [--trials 20] [--json FILE]

Times are from the harm to the event in the record, or to the moment when no process is left.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from celery import Celery

from orchestrator import PipelineBuilder
from orchestrator.coordinator.coordinator import Coordinator
from orchestrator.ledger.connection import connect
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.presence import present_workers
from orchestrator.local.server import embedded_server
from orchestrator.messages.app import create_app
from orchestrator.messages.queues import queue_keys
from orchestrator.plan.compile import compile_pipeline
from orchestrator.processes.tree import ProcessTree, runs
from orchestrator.runs.submission import submit
from orchestrator.settings.model import Settings
from orchestrator.settings.pools import PoolSettings
from tests.chaos.harm import Crew
from tests.chaos.recovery_steps import hold, hold_with_children

LIMIT_S = 60.0
WORKERS = 4  # of two children each
AT_ONCE = 4  # trials side by side


@dataclass(frozen=True)
class Figure:
    """What was measured, with what settings; the target is for the 95th percentile."""

    name: str
    target_s: float
    seconds: list[float]

    @property
    def p95(self) -> float:
        ordered = sorted(self.seconds)
        return ordered[math.ceil(0.95 * len(ordered)) - 1]

    def row(self) -> str:
        median, worst = statistics.median(self.seconds), max(self.seconds)
        verdict = "reached" if self.p95 <= self.target_s else "MISSED"
        return (
            f"| {self.name} | {len(self.seconds)} | {median:.2f} s | **{self.p95:.2f} s** |"
            f" {worst:.2f} s | ≤ {self.target_s:g} s | {verdict} |"
        )


class Site:
    """Workers and a coordinator on a server, with the settings that the figure is about."""

    def __init__(
        self,
        ledger: Ledger,
        settings: Settings,
        folder: Path,
        crew: Crew,
        submit_step: Callable[..., str],
    ):
        self.ledger, self.settings, self.folder, self.crew = ledger, settings, folder, crew
        self._submit = submit_step
        self._numbers = iter(range(10**6))

    def hold(self, function: Callable[[str], None] = hold) -> tuple[str, int, int]:
        """Start a step that holds on; give its run, and the ids of its child and of its worker's
        main process."""
        path = self.folder / f"holding-{next(self._numbers)}"
        run_id = self._submit(function, str(path))
        until(path.exists)
        child, main = map(int, path.read_text().split())
        return run_id, child, main

    def submit(self) -> str:
        return self._submit(hold, str(self.folder / f"waiting-{next(self._numbers)}"))

    def at_us(self, run_id: str, event: str, attempt: int) -> int:
        """Wait for an event of a run and give when it happened."""
        found: list[int] = []

        def look() -> bool:
            found[:] = [
                it.at_us
                for it in self.ledger.events(run_id)
                if (it.kind, it.attempt) == (event, attempt)
            ]
            return bool(found)

        until(look)
        return found[0]


def until(condition: Callable[[], object], within_s: float = LIMIT_S) -> None:
    limit = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > limit:
            raise TimeoutError(f"not within {within_s:g} s")
        time.sleep(0.01)


@contextlib.contextmanager
def site(
    app: Celery, redis_url: str, folder: Path, name: str, workers: int, **changed: float
) -> Iterator[Site]:
    """Return a site with default settings but for those that are changed."""
    folder = folder / name
    folder.mkdir()
    settings = Settings(
        redis_url=redis_url,
        data_dir=folder / "data",
        key_prefix=name,
        pools={"cpu": PoolSettings(queue=name)},
        **changed,  # type: ignore[arg-type]
    )
    crew, stopped = Crew(settings, workers, folder), threading.Event()
    with connect(redis_url, retries=10) as client:
        ledger = Ledger(client, settings.key_prefix)

        def submit_step(function: Callable[[str], None], path: str) -> str:
            builder = PipelineBuilder("recovery")
            builder.add("hold", function, args=[path], lost_attempts=10)
            return submit(compile_pipeline(builder.build()), ledger, app, settings)

        coordinator = threading.Thread(
            target=Coordinator(ledger, app, settings).serve, args=(stopped,)
        )
        coordinator.start()
        try:
            crew.restart_dead()
            until(lambda: len(present_workers(client, settings.key_prefix)) == workers)
            # a coordinator that has just come waits before it judges
            time.sleep(settings.renewal_interval_s * 2)
            yield Site(ledger, settings, folder, crew, submit_step)
        finally:
            stopped.set()
            coordinator.join()
            crew.end()


def child_killed(app: Celery, redis_url: str, folder: Path, trials: int) -> Figure:
    seconds = []
    with site(app, redis_url, folder, "child", 1) as it:
        for _ in range(trials):
            run_id, child, _ = it.hold()
            killed_us = time.time() * 1e6
            os.kill(child, signal.SIGKILL)
            seconds.append((it.at_us(run_id, "step.queued", 2) - killed_us) / 1e6)
    return Figure("child killed → its step queued again", 2.0, seconds)


def worker_killed(
    app: Celery, redis_url: str, folder: Path, trials: int, target_s: float, **changed: float
) -> Figure:
    """Several workers at once; each is started anew for the next trials."""
    seconds: list[float] = []
    with site(app, redis_url, folder, f"worker-{len(changed)}", WORKERS, **changed) as it:
        while len(seconds) < trials:
            until(lambda: len(present_workers(it.ledger.client, it.settings.key_prefix)) == WORKERS)
            held = [it.hold() for _ in range(AT_ONCE)]
            killed = {}
            for main in {main for _, _, main in held}:
                killed[main] = time.time() * 1e6
                os.kill(main, signal.SIGKILL)
                time.sleep(0.37)  # at different moments of the renewals
            for run_id, _, main in held:
                seconds.append((it.at_us(run_id, "step.queued", 2) - killed[main]) / 1e6)
            for process in it.crew.processes.values():
                with contextlib.suppress(Exception):
                    process.wait(0.5)
            it.crew.restart_dead()
            until(lambda: all(p.poll() is None for p in it.crew.processes.values()))
    lease = f"lease {it.settings.lease_s:g} s"
    return Figure(
        f"worker main process killed → re-dispatched ({lease})", target_s, seconds[:trials]
    )


def message_lost(app: Celery, redis_url: str, folder: Path, trials: int) -> Figure:
    with site(app, redis_url, folder, "message", 0) as it:
        lost = {}
        for _ in range(trials):
            run_id = it.submit()
            it.ledger.client.delete(*queue_keys(it.settings.queue_of()))
            lost[run_id] = time.time() * 1e6
            time.sleep(0.13)
        seconds = [
            (it.at_us(run_id, "message.lost", 1) - lost_us) / 1e6
            for run_id, lost_us in lost.items()
        ]
    return Figure("message lost → sent again", 10.0, seconds)


def cancelled(app: Celery, redis_url: str, folder: Path, trials: int) -> Figure:
    """A Python step with children and grandchildren that ignore SIGTERM: the grace is always used
    up."""
    seconds: list[float] = []
    with site(app, redis_url, folder, "cancel", 2) as it:
        grace_s = it.settings.timeout_grace_s
        while len(seconds) < trials:
            held = [it.hold(hold_with_children) for _ in range(AT_ONCE)]
            trees = [ProcessTree(child) for _, child, _ in held]
            began = [0.0] * len(held)
            for number, (run_id, _, _) in enumerate(held):
                began[number] = time.monotonic()
                it.ledger.cancel(run_id, "measured")
                time.sleep(0.31)
            ended = [0.0] * len(held)
            while not all(ended):
                for number, tree in enumerate(trees):
                    if not ended[number] and not any(runs(process) for process in tree.members()):
                        ended[number] = time.monotonic()
                if time.monotonic() > began[-1] + LIMIT_S:
                    raise TimeoutError("a process tree is not gone")
                time.sleep(0.01)
            seconds += [end - begin for begin, end in zip(began, ended, strict=True)]
    return Figure(
        f"cancel → process tree gone (it ignores SIGTERM; grace {grace_s:g} s)",
        2 + grace_s,
        seconds[:trials],
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=20, help="trials for each figure")
    parser.add_argument("--json", type=Path, help="file for the figures with every trial")
    given = parser.parse_args()
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="recovery-", ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        with embedded_server(folder / "server") as url, create_app(Settings(), url) as app:
            print(
                "| what | trials | median | p95 | worst | target for p95 |"
                " |\n|---|---:|---:|---:|---:|---|---|",
                flush=True,
            )
            for measure in (
                lambda: child_killed(app, url, folder, given.trials),
                lambda: worker_killed(app, url, folder, given.trials, 10.0),
                lambda: worker_killed(app, url, folder, given.trials, 3.0, lease_s=1.5),
                lambda: message_lost(app, url, folder, given.trials),
                lambda: cancelled(app, url, folder, given.trials),
            ):
                figures.append(measure())
                print(figures[-1].row(), flush=True)
    if given.json:
        shown = [
            {
                "name": figure.name,
                "target_s": figure.target_s,
                "p95_s": figure.p95,
                "seconds": figure.seconds,
            }
            for figure in figures
        ]
        given.json.write_text(json.dumps(shown, indent=2))
    is_reached = all(it.p95 <= it.target_s for it in figures)
    return 0 if is_reached and not psutil.Process().children() else 1


if __name__ == "__main__":
    sys.exit(main())
