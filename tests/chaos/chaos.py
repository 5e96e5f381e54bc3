"""A seeded chaos run: random pipelines on three workers while everything is done to them, and a
look at the outcome.

    python tests/chaos/chaos.py --seeds 7 8 9 --pipelines 200      one run a seed; exit 1 and the
    seed when one fails

The seed decides the pipelines and the order of the harm. When the harm strikes is up to the
machine, so a failing seed may need several goes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from random import Random, SystemRandom

from orchestrator.artifacts.outputs import decode_output
from orchestrator.artifacts.values import ArtifactStore
from orchestrator.coordinator.coordinator import Coordinator
from orchestrator.ledger.connection import connect
from orchestrator.ledger.events import REPAIRS
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.states import RunState
from orchestrator.local.server import embedded_server
from orchestrator.messages.app import create_app
from orchestrator.plan.compile import compile_pipeline
from orchestrator.record.run import RunRecord, read_record
from orchestrator.record.verification import verify_run
from orchestrator.runs.submission import submit
from orchestrator.settings.model import Settings
from orchestrator.settings.pools import PoolSettings
from tests.chaos.harm import Crew, Harm
from tests.chaos.surroundings import Disk, disk
from tests.chaos.tangle import Tangle, tangle

WORKERS = 3
COORDINATORS = 2
AT_ONCE = 40  # runs under way; more would only wait
HARM_PAUSE_S = 0.4
SETTLE_S = 60.0
INLINE_BYTES = 14  # about half of the outputs of chaos steps are longer, and go to the store


class Chaos:
    """One run of the chaos: `pipelines` random pipelines by `seed`. `violations` stays empty when
    all is well."""

    def __init__(
        self, seed: int, pipelines: int, folder: Path, redis_url: str, within_s: float
    ) -> None:
        self.seed, self.limit_s = seed, within_s
        self._rng = Random(seed)
        self._tangles = [tangle(self._rng) for _ in range(pipelines)]
        self._folder, self._url = folder, redis_url
        self._settings = Settings(
            redis_url=redis_url,
            data_dir=folder / "data",
            key_prefix=f"chaos{seed}",
            pools={"cpu": PoolSettings(queue=f"chaos-{seed}")},
            lease_s=1.5,
            message_lost_after_s=1.0,
            timeout_grace_s=0.5,
            drain_grace_s=2.0,
            poll_interval_s=0.2,
            inline_output_bytes=INLINE_BYTES,
        )
        self._ended: set[str] = set()
        self.violations: list[str] = []
        self.events: Counter[str] = Counter()
        self.harm: Counter[str] = Counter()
        self.took_s = 0.0
        self.left_out = ""

    def run(self) -> None:
        """Go through it all; afterwards `violations` tells what is wrong."""
        began = time.monotonic()
        with disk(self._rng, self._settings.artifact_root) as store:
            self.left_out = store if isinstance(store, str) else ""
            self._run(began, None if isinstance(store, str) else store)
        self.took_s = time.monotonic() - began

    def _run(self, began: float, store: Disk | None) -> None:
        crew = Crew(self._settings, WORKERS, self._folder)
        app = create_app(self._settings, self._url)
        over, harmless = threading.Event(), threading.Event()
        with connect(self._url, retries=30) as client, app:
            ledger = Ledger(client, self._settings.key_prefix)
            harm = Harm(self._rng, crew, client, self._settings, store)
            threads = [
                threading.Thread(
                    target=Coordinator(ledger, app, self._settings).serve, args=(over,)
                )
                for _ in range(COORDINATORS)
            ]
            threads.append(threading.Thread(target=harm.go_on, args=(harmless, HARM_PAUSE_S)))
            try:
                crew.restart_dead()
                for thread in threads:
                    thread.start()
                run_ids = self._submit_all(ledger, app, began + self.limit_s)
                harmless.set()
                self._wait(ledger, run_ids, time.monotonic() + SETTLE_S)
                threads[-1].join()
                self.violations += harm.strangers.violations(SETTLE_S)
            finally:
                harmless.set()
                over.set()
                for thread in threads:
                    thread.join(30)
                crew.end()
                app.pool.force_close_all()
            self.harm = harm.done
            for number, run_id in run_ids.items():
                self._look(ledger, number, run_id)

    def _submit_all(self, ledger: Ledger, app: object, limit: float) -> dict[int, str]:
        """Submit all, some at a time, while the harm goes on; returns when the last ones have ended
        or time is up."""
        run_ids: dict[int, str] = {}
        for number, it in enumerate(self._tangles):
            while len(self._open(ledger, run_ids)) >= AT_ONCE and time.monotonic() < limit:
                time.sleep(0.05)
            plan = compile_pipeline(it.pipeline(self._folder / "traces" / str(number)))
            run_ids[number] = submit(plan, ledger, app, self._settings)  # type: ignore[arg-type]
        self._wait(ledger, run_ids, limit)
        return run_ids

    def _open(self, ledger: Ledger, run_ids: dict[int, str]) -> list[str]:
        return [
            run_id
            for run_id in run_ids.values()
            if run_id not in self._ended and not self._has_ended(ledger, run_id)
        ]

    def _has_ended(self, ledger: Ledger, run_id: str) -> bool:
        if RunState(ledger.run_fields(run_id)["state"]).is_ended:
            self._ended.add(run_id)
        return run_id in self._ended

    def _wait(self, ledger: Ledger, run_ids: dict[int, str], limit: float) -> None:
        while self._open(ledger, run_ids) and time.monotonic() < limit:
            time.sleep(0.1)

    def _look(self, ledger: Ledger, number: int, run_id: str) -> None:
        """Compare what is with what must be."""
        it, record = self._tangles[number], read_record(ledger, run_id)
        self.events.update(event.kind for event in ledger.events(run_id))
        found = [*verify_run(ledger, run_id).violations]
        states = {step: str(told.state) for step, told in record.steps.items()}
        if not record.state.is_ended:
            found.append(f"it has not ended: {states}")
        elif states != it.states():
            wrong = {
                step: (state, it.states()[step])
                for step, state in states.items()
                if state != it.states()[step]
            }
            found.append(
                f"steps ended otherwise than they must (as they did, as they must): {wrong}"
            )
        else:
            found += self._look_at_outputs(ledger, it, record)
            found += self._look_at_traces(ledger, it, record, self._folder / "traces" / str(number))
        self.violations += [f"pipeline {number}, run {run_id}: {violation}" for violation in found]

    def _look_at_outputs(self, ledger: Ledger, it: Tangle, record: RunRecord) -> list[str]:
        store = ArtifactStore.in_folder(self._settings.artifact_root)
        given = {
            step: decode_output(text, store) for step, text in ledger.outputs(record.run_id).items()
        }
        return it.wrong_outputs(given)

    def _look_at_traces(
        self, ledger: Ledger, it: Tangle, record: RunRecord, folder: Path
    ) -> list[str]:
        """The side effect of each success is there once, with the token that the ledger holds."""
        wrong = []
        for step, told in record.steps.items():
            trace = folder / step
            lines = trace.read_text().splitlines() if trace.exists() else []
            done = [line.removeprefix("done ") for line in lines if line.startswith("done ")]
            if told.state == "succeeded":
                token = str(ledger.token(record.run_id, step))
                if done.count(token) != 1:
                    wrong.append(
                        f"step {step} succeeded with token {token}, but its side effects bear"
                        f" {done}"
                    )
            elif done:
                wrong.append(f"step {step} is {told.state}, but has side effects of {done}")
        return wrong

    def report(self) -> str:
        """Return what happened in a few lines."""
        repairs = {
            name: self.events[name]
            for name in (
                *sorted(REPAIRS),
                "commit.refused",
                "attempt.handed_over",
                "attempt.put_back",
            )
        }
        return (
            f"chaos seed {self.seed}: {len(self._tangles)} pipelines in {self.took_s:.0f} s, "
            f"{self.events['step.succeeded']:,} successes, {len(self.violations)} violations\n"
            f"  harm done: {json.dumps(dict(self.harm.most_common()))}\n"
            f"  caught: {json.dumps(repairs)}"
            + (
                f"\n  left out: harm to the artifact store; {self.left_out}"
                if self.left_out
                else ""
            )
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", help="which runs to make; one by chance if none is given"
    )
    parser.add_argument("--pipelines", type=int, default=200, help="random pipelines in a run")
    parser.add_argument(
        "--limit", type=float, default=600.0, help="seconds that a run may take under harm"
    )
    parser.add_argument(
        "--keep",
        type=Path,
        help="folder for logs and traces; a temporary one that goes if not given",
    )
    given = parser.parse_args()
    failed = []
    for seed in given.seeds or [SystemRandom().randrange(10**6)]:
        with tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as temporary:
            folder = (given.keep or Path(temporary)) / str(seed)
            folder.mkdir(parents=True)
            with embedded_server(folder / "server") as url:
                chaos = Chaos(seed, given.pipelines, folder, url, given.limit)
                chaos.run()
            print(chaos.report(), *chaos.violations[:20], sep="\n", flush=True)
            if chaos.violations:
                failed.append(seed)
                print(
                    f"replay it: python {sys.argv[0]} --pipelines {given.pipelines} --seeds {seed}",
                    flush=True,
                )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
