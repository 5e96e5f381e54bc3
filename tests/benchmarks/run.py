"""Compares the orchestrator with plain Celery canvas, side by side in one run, and measures what
else has a target.

    python tests/benchmarks/run.py [--quick] [--repeats N] [--limit SECONDS] [--only NAME] [--json
    FILE]

Nothing passes or fails by time. docs/benchmarks.md says what is measured and what was found.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import FrameType

from figures import Comparison, Figure, machine_facts
from report import as_json, console, show
from shapes import Shape, chain, fan, layered, workflow
from sides import MeasureFailed, Ours, Plain, both_sides, server, with_and_without_net

from orchestrator.errors import OrchestratorError
from orchestrator.plan.compile import compile_pipeline
from orchestrator.runs.submission import plan_message_bytes

REPEATS, QUICK_REPEATS = 5, 2
LIMIT_S, QUICK_LIMIT_S = 400.0, 65.0
RUN_LIMIT_S = 90.0  # of one measured run
EVENTS_OFF_SHARE = 0.35  # of the limit, for the comparisons with Celery events off
TARGETS = {"chain": 1.1, "fan": 0.6, "layered": 0.4}
BYTES_PER_STEP_TARGET = 2048.0
NET_COST_TARGET = 5.0  # percent
SERVER_START_TARGET_MS = 400.0
FIRST_STEP_TARGET_MS = 3000.0
WORKFLOW = "montage-gen-9981"


class Benchmark:
    """One going-through of all measures. Repeats that the limit of time does not allow are left
    out, and said so."""

    def __init__(self, *, is_quick: bool, repeats: int, within_s: float, only: str) -> None:
        self.is_quick, self.repeats, self.only = is_quick, repeats, only
        self.began, self.limit_s = time.monotonic(), within_s
        self.facts: dict[str, str | int] = {}
        self.comparisons: list[Comparison] = []
        self.figures: list[Figure] = []
        self.notes: list[str] = []

    def run(self) -> None:
        with (
            tempfile.TemporaryDirectory(prefix="benchmark-") as folder,
            server(Path(folder)) as url,
        ):
            self.facts = machine_facts(url)
            self._compile_time()
            self._server_start()
            self._first_step_of_run()
            self._safety_net(url, Path(folder))
            for events in (False, True):
                with both_sides(url, Path(folder), events=events) as (ours, plain):
                    self._compare(ours, plain, events=events)
                    if not events:
                        self._first_start(ours, plain)
                        self._memory(ours)
                        self._message_bytes(ours)
                        self._workflow(ours, plain)

    # -- both sides
    # --------------------------------------------------------------------------------------------

    def _compare(self, ours: Ours, plain: Plain, *, events: bool) -> None:
        """Measure all shapes in each repeat, so that a slow minute of the machine falls on all of
        them."""
        shapes = [chain(100), fan(200), *([] if self.is_quick else [fan(2000)]), layered(10, 20)]
        cases = []
        for shape in shapes:
            for against in (
                ("canvas", "groups") if shape.name.startswith("layered") else ("canvas",)
            ):
                if self._wants(shape.name):
                    target = TARGETS[shape.name.split("-")[0]] if against == "canvas" else None
                    made = Comparison(shape.name, against, shape.steps, events, target)
                    self.comparisons.append(made)
                    cases.append((made, shape))
        until = self.began + self.limit_s * (1.0 if events else EVENTS_OFF_SHARE)
        for repeat in range(self.repeats):
            for made, shape in cases:
                if repeat and time.monotonic() > until:
                    self.notes.append(
                        f"events {'on' if events else 'off'}: {repeat} of {self.repeats} repeats in"
                        " time"
                    )
                    return
                self._compare_once(ours, plain, made, shape, is_ours_first=repeat % 2 == 0)

    def _compare_once(
        self, ours: Ours, plain: Plain, made: Comparison, shape: Shape, *, is_ours_first: bool
    ) -> None:
        plan = ours.plan(shape)
        run_plain = plain.run if made.against == "canvas" else plain.run_by_levels
        for side in ("ours", "plain") if is_ours_first else ("plain", "ours"):
            if side == "ours":
                made.ours_s.append(ours.run(plan, RUN_LIMIT_S).total_s)
            else:
                made.plain_s.append(run_plain(shape, RUN_LIMIT_S))

    def _first_start(self, ours: Ours, plain: Plain) -> None:
        """Measure the time from the call that submits one step, or one task, until it starts."""
        if not self._wants("first start"):
            return
        plan = ours.plan(chain(1))
        ours_s, plain_s = [], []
        for _ in range(4 * self.repeats):
            ours_s.append(ours.run(plan, RUN_LIMIT_S).first_start_s)
            plain_s.append(plain.first_start_s(RUN_LIMIT_S))
        self._add("first start of a run of 1 step", statistics.median(ours_s) * 1000, "ms")
        self._add("first start of a plain task", statistics.median(plain_s) * 1000, "ms")

    def _workflow(self, ours: Ours, plain: Plain) -> None:
        """Run a real DAG of 10k steps once on each side; a canvas of it would be gigabytes, so
        plain sends levels."""
        if self.is_quick or not self._wants(WORKFLOW):
            return
        shape = workflow(WORKFLOW)
        if shape is None:
            self.notes.append(
                f"{WORKFLOW} left out: it is not beside the repository (set WORKFLOWS_DIR)"
            )
            return
        made = Comparison(shape.name, "groups", shape.steps, events=False)
        self.comparisons.append(made)
        self._compare_once(ours, plain, made, shape, is_ours_first=True)

    def _safety_net(self, url: str, folder: Path) -> None:
        """Measure what leases, their renewal and the coordinator's looks cost: ours with them
        against ours without."""
        shapes = [
            shape
            for shape in (chain(100), fan(200 if self.is_quick else 2000), layered(10, 20))
            if self._wants(f"safety net, {shape.name}")
        ]
        if not shapes:
            return
        with with_and_without_net(url, folder) as (netted, bare):
            for shape in shapes:
                plan, with_s, without_s = netted.plan(shape), list[float](), list[float]()
                for repeat in range(2 * self.repeats):
                    for side in (netted, bare) if repeat % 2 else (bare, netted):
                        took_s = side.run(plan, RUN_LIMIT_S).total_s
                        (with_s if side is netted else without_s).append(took_s)
                cost = statistics.median(with_s) / statistics.median(without_s) - 1
                self._add(f"safety net, {shape.name}: its cost", cost * 100, "%", NET_COST_TARGET)

    # -- ours alone
    # --------------------------------------------------------------------------------------------

    def _compile_time(self) -> None:
        for layers in (100,) if self.is_quick else (100, 1000):
            shape = layered(layers, 100)
            if self._wants(name := f"compile {shape.steps} steps"):
                pipeline, took_s = shape.pipeline(), []
                for _ in range(min(self.repeats, 3)):
                    began = time.perf_counter()
                    compile_pipeline(pipeline)
                    took_s.append(time.perf_counter() - began)
                self._add(name, statistics.median(took_s) * 1000, "ms")

    def _server_start(self) -> None:
        """Measure the embedded server from the call to its first answer."""
        if not self._wants("embedded server: start"):
            return
        took_s = []
        for _ in range(self.repeats):
            with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
                began = time.perf_counter()
                with server(Path(folder)):
                    took_s.append(time.perf_counter() - began)
        self._add(
            "embedded server: start", statistics.median(took_s) * 1000, "ms", SERVER_START_TARGET_MS
        )

    def _first_step_of_run(self) -> None:
        """Measure `orchestrator run` from the command to the start of its first step, with the
        embedded server."""
        if not self._wants("orchestrator run: first step"):
            return
        command = [str(Path(sys.executable).with_name("orchestrator")), "run", "one.yaml", "--json"]
        took_s = []
        for _ in range(self.repeats):
            with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
                Path(folder, "one.yaml").write_text("steps: {one: {run: 'true'}}\n")
                began = time.time()
                printed = subprocess.run(
                    command, cwd=folder, capture_output=True, check=True, timeout=RUN_LIMIT_S
                ).stdout
                first = json.loads(printed)["steps"]["one"]["attempts"][0]["started_at"]
                took_s.append(datetime.fromisoformat(first).timestamp() - began)
        self._add(
            "orchestrator run: first step",
            statistics.median(took_s) * 1000,
            "ms",
            FIRST_STEP_TARGET_MS,
        )

    def _memory(self, ours: Ours) -> None:
        """Measure what a run leaves in Redis, and the most it takes while it runs, for each
        step."""
        if not self._wants("memory"):
            return
        shape = layered(20 if self.is_quick else 100, 100)
        client = ours.ledger.client
        plan = ours.plan(shape)
        before = _used_memory(ours)
        with _peak_memory(ours) as peak:
            sample = ours.run(plan, RUN_LIMIT_S, is_forgotten=False)
        steps = shape.steps
        self._add(
            f"memory a step, {steps} steps",
            (_used_memory(ours) - before) / steps,
            "bytes",
            BYTES_PER_STEP_TARGET,
        )
        self._add(f"memory a step at its peak, {steps} steps", (peak[0] - before) / steps, "bytes")
        self._add(f"time a step, {steps} steps", sample.total_s / steps * 1000, "ms")
        self._add(f"first start of a run of {steps} steps", sample.first_start_s * 1000, "ms")
        [run_id] = ours.ledger.recent_runs(1)
        keys = client.scan_iter(ours.ledger.key(run_id, "*"))
        for key in sorted(keys, key=lambda key: -int(client.memory_usage(key, samples=0) or 0)):
            self._add(
                f"  of it {key.rpartition(':')[2]}",
                int(client.memory_usage(key, samples=0) or 0) / steps,
                "bytes",
            )
        ours.forget(run_id)

    def _message_bytes(self, ours: Ours) -> None:
        for shape in (
            chain(100),
            fan(2000),
            layered(10, 20),
            layered(100, 100),
            workflow(WORKFLOW),
        ):
            if shape and self._wants(name := f"largest message of {shape.name}"):
                self._add(name, plan_message_bytes(ours.plan(shape), ours.settings), "bytes")

    def _add(self, name: str, value: float, unit: str, target: float | None = None) -> None:
        self.figures.append(Figure(name, value, unit, target))

    def _wants(self, name: str) -> bool:
        return self.only in name


def _used_memory(ours: Ours) -> int:
    return int(ours.ledger.client.info("memory")["used_memory"])


@contextmanager
def _peak_memory(ours: Ours) -> Iterator[list[int]]:
    """Return a list whose one item is the most memory that the server used inside the block, looked
    at every 20 ms."""
    peak, stopped = [0], threading.Event()

    def watch() -> None:
        while not stopped.wait(0.02):
            peak[0] = max(peak[0], _used_memory(ours))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        stopped.set()
        watcher.join()


def _leave(signal_number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + signal_number)  # the workers and the server are ended on the way out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="fewer and smaller measures, within a minute"
    )
    parser.add_argument(
        "--repeats", type=int, help=f"of each comparison (default {REPEATS}, quick {QUICK_REPEATS})"
    )
    parser.add_argument(
        "--limit",
        type=float,
        help=f"seconds for all (default {LIMIT_S:g}, quick {QUICK_LIMIT_S:g})",
    )
    parser.add_argument(
        "--only", default="", metavar="NAME", help="only the measures whose name holds NAME"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    chosen = parser.parse_args()
    benchmark = Benchmark(
        is_quick=chosen.quick,
        repeats=chosen.repeats or (QUICK_REPEATS if chosen.quick else REPEATS),
        within_s=chosen.limit or (QUICK_LIMIT_S if chosen.quick else LIMIT_S),
        only=chosen.only,
    )
    signal.signal(signal.SIGTERM, _leave)
    code = 0
    try:
        benchmark.run()
    except (MeasureFailed, OrchestratorError) as error:
        console.print(f"[red]{type(error).__name__}[/red]: {error}", highlight=False)
        code = 1
    except KeyboardInterrupt:
        console.print("interrupted")
        code = 130
    show(benchmark.facts, benchmark.comparisons, benchmark.figures, benchmark.notes)
    if chosen.json:
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        made = as_json(benchmark.facts, benchmark.comparisons, benchmark.figures, benchmark.notes)
        chosen.json.write_text(json.dumps(made, indent=1) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
