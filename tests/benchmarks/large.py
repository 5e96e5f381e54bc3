"""Measures what a run of very many steps costs the server and the runs beside it.

    python tests/benchmarks/large.py [--steps N] [--json FILE]

A fan: a root, N steps below it that read it, and one that reads them all. For everything that is
done to it: the wall time, the longest call that the server saw (SLOWLOG), and how long claim and
commit of a step of a small run beside it took meanwhile, in another process. Nothing passes or
fails by time; a server that shares its cores shows calls that waited for one.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from orchestrator.attempt_id import AttemptId
from orchestrator.definition.pipeline import FunctionCall, OutputRef, Pipeline, Step
from orchestrator.ledger.connection import connect
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.staging import broker_lists, staged_steps
from orchestrator.ledger.states import Outcome
from orchestrator.ledger.values import Claim, Ready
from orchestrator.local.server import embedded_server
from orchestrator.plan.compile import compile_pipeline
from orchestrator.settings.model import Settings

SLOW_US = 1000
PARTS = ("graph", "children", "inputs", "spec", "state", "join", "output", "events", "due")


@dataclass(frozen=True)
class Measured:
    """What one thing done to the large run took. `beside_ms` are the median and the longest time of
    a small step meanwhile."""

    what: str
    wall_s: float
    longest_call_ms: float
    beside_ms: tuple[float, float]


class Large:
    """The large run on an embedded server of its own."""

    def __init__(self, url: str, steps: int) -> None:
        self.client = connect(url)
        self.ledger = Ledger(self.client)
        self.names = [f"step_{number}" for number in range(steps)]
        self.measured: list[Measured] = []
        self.client.config_set("slowlog-log-slower-than", SLOW_US)
        self.client.config_set("slowlog-max-len", 1_000_000)

    def pipeline(self) -> Pipeline:
        root, call = "root", FunctionCall("m:f", (OutputRef("root"),))
        steps = {root: Step(root, FunctionCall("m:f"))}
        steps |= {name: Step(name, call, (root,)) for name in self.names}
        reads = FunctionCall("m:f", ([OutputRef(name) for name in self.names],))
        return Pipeline("large", {**steps, "end": Step("end", reads, tuple(self.names))})

    def start(self, run_id: str) -> None:
        self.all_of(run_id, start(self.ledger, run_id, self.pipeline()))

    def all_of(self, run_id: str, ready: Ready) -> None:
        while ready.has_more:
            ready = self.ledger.go_on(run_id)

    def end_root(self, run_id: str, attempt: int, outcome: Outcome) -> None:
        root = AttemptId(run_id, "root", attempt)
        claim = self.ledger.claim(root, "c", "w")
        assert isinstance(claim, Claim)
        answer: Any = self.ledger.commit(root, claim.token, "w", outcome, output="1")
        self.all_of(run_id, answer.ready)

    def run_steps(self, run_id: str) -> None:
        for name in self.names:
            step = AttemptId(run_id, name, 1)
            claim: Any = self.ledger.claim(step, "c", "w")
            self.ledger.commit(step, claim.token, "w", Outcome.SUCCEEDED, output="1")

    def resume(self, run_id: str) -> None:
        resets = [("root", 0), *((name, 0) for name in self.names), ("end", 0)]
        self.all_of(run_id, self.ledger.resume(run_id, resets))

    def measure(self, url: str, what: str, act: Callable[[], object]) -> None:
        self.client.slowlog_reset()
        with small_steps(url) as beside:
            began = time.perf_counter()
            act()
            wall_s = time.perf_counter() - began
        longest = max(
            (entry["duration"] for entry in self.client.slowlog_get(1_000_000)), default=0
        )
        it = Measured(what, wall_s, longest / 1000, (statistics.median(beside), max(beside)))
        self.measured.append(it)
        print(
            f"{what:24} {wall_s:8.2f} s   longest call {it.longest_call_ms:6.1f} ms   a small step"
            f" {it.beside_ms[0]:5.2f} ms, at most {it.beside_ms[1]:6.1f}",
            flush=True,
        )

    def bytes_a_step(self, run_id: str) -> float:
        sizes = [
            self.client.memory_usage(self.ledger.key(run_id, part), samples=0) or 0
            for part in PARTS
        ]
        return float(sum(sizes)) / len(self.names)


def start(ledger: Ledger, run_id: str, pipeline: Pipeline) -> Ready:
    plan, settings = compile_pipeline(pipeline), Settings()
    lists = json.dumps(broker_lists(plan, settings))
    fields = {"pipeline": "p", "params": "{}", "import_path": "", "max_links": 20, "lists": lists}
    roots = [plan.chains[index][0] for index in plan.roots]
    return ledger.start(run_id, staged_steps(plan, settings), roots, fields)


def live_beside(url: str, stopped: Event, times: Any) -> None:
    """Run small runs of two steps, one after the other, and note how long each step takes."""
    ledger = Ledger(connect(url))
    call = FunctionCall("m:f")
    pipeline = Pipeline("small", {"a": Step("a", call), "b": Step("b", call, ("a",))})
    while not stopped.is_set():
        run_id = f"small-{time.time_ns()}"
        start(ledger, run_id, pipeline)
        for name in "ab":
            began, step = time.perf_counter(), AttemptId(run_id, name, 1)
            claim: Any = ledger.claim(step, "c", "w")
            ledger.commit(step, claim.token, "w", Outcome.SUCCEEDED)
            times.append((time.perf_counter() - began) * 1000)
        time.sleep(0.01)


@contextmanager
def small_steps(url: str) -> Iterator[list[float]]:
    """Let another process run small runs; the list has the times (ms) of their steps afterwards."""
    found: list[float] = []
    with multiprocessing.Manager() as manager:
        times, stopped = manager.list(), multiprocessing.Event()
        process = multiprocessing.Process(target=live_beside, args=(url, stopped, times))
        process.start()
        while not times:
            time.sleep(0.01)
        yield found
        stopped.set()
        process.join()
        found += list(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        embedded_server(Path(folder) / "data") as url,
    ):
        large = Large(url, options.steps)
        large.measure(url, "nothing", lambda: time.sleep(3))
        large.measure(url, "start", lambda: large.start("a"))
        large.measure(url, "release", lambda: large.end_root("a", 1, Outcome.SUCCEEDED))
        large.measure(url, "claim and commit all", lambda: large.run_steps("a"))
        end = AttemptId("a", "end", 1)
        large.measure(url, "claim of the reduce", lambda: large.ledger.claim(end, "c", "w"))
        large.measure(url, "its inputs", lambda: list(large.ledger.outputs_for("a", "end")))
        print(f"{large.bytes_a_step('a'):.0f} bytes a step")
        large.ledger.cancel("a", "done")
        large.start("b")
        large.measure(url, "failure of the root", lambda: large.end_root("b", 1, Outcome.FAILED))
        large.measure(url, "resume", lambda: large.resume("b"))
        large.end_root("b", 2, Outcome.SUCCEEDED)
        large.measure(url, "cancel", lambda: large.ledger.cancel("b", "enough"))
        if options.json:
            options.json.write_text(json.dumps([asdict(it) for it in large.measured], indent=1))


if __name__ == "__main__":
    main()
