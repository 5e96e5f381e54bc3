"""Workers started by hand: every kind of pool, their signs of life, and their end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.ledger.presence import COUNTS_FOR_S, present_workers
from orchestrator.settings.model import Settings
from orchestrator.settings.pools import PoolSettings
from tests.support.fixtures import PipelineFrom, States, WaitUntil
from tests.support.worker_runs import Runs

CELERY = str(Path(sys.executable).with_name("celery"))
ROOT = Path(__file__).parents[3]


TALKING = """
    import logging, os, sys, time

    @step
    def talk(name):
        for number in range(50):
            print(name, "printed", number)
            print(name, "to stderr", number, file=sys.stderr)
            logging.getLogger("my").warning("%s", f"{name} logged {number}")
            time.sleep(0.001)
        return name

    @step
    def join(*names):
        return "".join(names)

    @step
    def fail(value):
        raise ValueError("as planned")

    @pipeline
    def talking():
        all = join(*[talk.options(name=name)(name) for name in "abcdef"])
        fail(all)
"""


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_every_pool_type_runs_pipelines_and_keeps_their_logs_apart(
    start_worker: Any, pipeline_from: PipelineFrom, pool: str, states: States
) -> None:
    worker, runs = start_worker(f"w-{pool}", "-P", pool, "-c", "1" if pool == "solo" else "4")

    record = runs.run(pipeline_from(TALKING))

    assert states(record) == {
        **dict.fromkeys("abcdef", "succeeded"),
        "join": "succeeded",
        "fail": "failed",
    }
    assert runs.value(record, "join") == "abcdef"
    assert record.steps["fail"].attempts[0].error.message == "as planned"
    for name in "abcdef":
        lines = runs.log(record, name)
        assert len(lines) == 150
        assert all(
            f"{name} printed" in line or f"{name} to" in line or f"{name} logged" in line
            for line in lines
        )
    assert "printed" not in worker.log


def test_the_solo_pool_captures_what_is_written_to_descriptors(
    start_worker: Any, pipeline_from: PipelineFrom
) -> None:
    _, runs = start_worker("w-solo", "-P", "solo")

    record = runs.run(
        pipeline_from("""
            import os, subprocess

            @step
            def write():
                os.write(1, b"from descriptor 1\\n")
                subprocess.run(["echo", "from a child"], check=True)

            @pipeline
            def writing():
                write()
        """)
    )

    assert runs.log(record, "write") == ["from descriptor 1", "from a child"]


def test_steps_of_a_threads_pool_run_side_by_side(
    start_worker: Any, pipeline_from: PipelineFrom, tmp_path: Path
) -> None:
    _, runs = start_worker("w-threads", "-P", "threads", "-c", "4")
    record = runs.run(
        pipeline_from("""
            import pathlib, time

            @step
            def meet(folder, name):
                pathlib.Path(folder, f"met-{name}").touch()
                while len(list(pathlib.Path(folder).glob("met-*"))) < 4:
                    time.sleep(0.01)

            @pipeline
            def meeting(folder: str):
                for name in "abcd":
                    meet.options(name=name)(folder, name)
        """, {"folder": str(tmp_path)})
    )  # fmt: skip

    assert record.state == "succeeded"


def test_a_worker_announces_itself_and_signs_off(
    start_worker: Any, settings: Settings, wait_until: WaitUntil
) -> None:
    worker, runs = start_worker("w-card", "-c", "3", "-l", "INFO")
    client, prefix = runs.ledger.client, settings.key_prefix

    (card,) = [
        card for card in present_workers(client, prefix) if card.worker.startswith("w-card@")
    ]
    assert card.queues == (runs.settings.queue_of(),)
    assert (card.slots, card.pool_type, card.pid) == (3, "prefork", worker.process.pid)

    worker.process.terminate()
    assert worker.process.wait(20) == 0
    assert not [
        card for card in present_workers(client, prefix) if card.worker.startswith("w-card@")
    ]


def test_a_killed_worker_counts_as_there_for_some_seconds_only(
    start_worker: Any, settings: Settings
) -> None:
    worker, runs = start_worker("w-killed", "-P", "solo")
    client = runs.ledger.client
    (card,) = [
        card
        for card in present_workers(client, settings.key_prefix)
        if card.worker.startswith("w-killed@")
    ]

    worker.process.kill()
    worker.process.wait()

    assert 0 < client.ttl(f"{settings.key_prefix}:worker:{card.worker}") <= COUNTS_FOR_S
    until = client.zscore(f"{settings.key_prefix}:workers", card.worker)
    assert until - client.time()[0] <= COUNTS_FOR_S + 1


def test_a_worker_without_a_server_is_refused_in_one_sentence(tmp_path: Path) -> None:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("ORCHESTRATOR_")
    }

    done = subprocess.run(
        [CELERY, "-A", "orchestrator.worker.app", "worker", "-Q", "cpu"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode != 0
    assert (
        "ORCHESTRATOR_REDIS_URL is not set, and a worker needs a server"
        in done.stdout + done.stderr
    )
    assert "Traceback" not in done.stdout + done.stderr


PARENT = """
import sys
from pathlib import Path
from orchestrator.local.worker import local_worker
from orchestrator.settings.model import Settings

settings = Settings(data_dir=Path(sys.argv[1]), key_prefix="workers")
with local_worker(settings, sys.argv[2], 2, ready_within_s=30) as workers:
    print(workers.pid, workers.settings.queue_of(), flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("what_runs", ["nothing", "a step", "a command"])
def test_a_local_worker_ends_when_its_parent_is_killed(
    shared_redis_url: str,
    settings: Settings,
    runs_by: Callable[[Settings], Runs],
    pipeline_from: PipelineFrom,
    tmp_path: Path,
    wait_until: WaitUntil,
    what_runs: str,
) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path / "data"), shared_redis_url]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as parent:
        pid, queue = parent.stdout.readline().split()
        tree = [psutil.Process(int(pid)), *psutil.Process(int(pid)).children(recursive=True)]
        if what_runs != "nothing":
            runs = runs_by(
                settings.model_copy(update={"pools": {"cpu": PoolSettings(queue=queue)}})
            )
            build = (
                "run='sleep 600'"
                if what_runs == "a command"
                else "function='time:sleep', args=[600]"
            )
            run_id = runs.submit(
                pipeline_from(f"long = PipelineBuilder('long')\nlong.add('sleep', {build})")
            )
            runs.wait(run_id, lambda record: record.steps["sleep"].state == "running")
            tree += tree[0].children(recursive=True)
        parent.kill()

        wait_until(lambda: not any(is_running(process) for process in tree))


def is_running(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
