"""Flower, as `orchestrator flower` sets it up, shows every step by its name."""

from __future__ import annotations

import ast
import base64
import json
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flower as flower_package
import flower.app
import flower.command
import flower.events
import flower.urls
import psutil
import pytest
from flower.inspector import Inspector
from flower.views.monitor import Metrics
from pydantic import SecretStr

from orchestrator.ledger.presence import present_workers
from orchestrator.ledger.values import Chain, Link, Ready
from orchestrator.local.worker import LocalWorker
from orchestrator.messages.dispatch import Dispatcher
from orchestrator.worker.flower import BoundedNames
from tests.support.fixtures import PipelineFrom, WaitUntil
from tests.support.worker_runs import OwnWorker, Runs

PASSWORD = "pass word"


class Flower:
    def __init__(self, port: int, pid: int) -> None:
        self.port, self.pid = port, pid

    def get(self, path: str, auth: str = f"admin:{PASSWORD}") -> Any:
        return json.loads(self.text(path, auth))

    def text(self, path: str, auth: str | None = f"admin:{PASSWORD}") -> str:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}")
        if auth:
            request.add_header("Authorization", "Basic " + base64.b64encode(auth.encode()).decode())
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.read().decode()

    def status(self, path: str, auth: str | None) -> int | None:
        try:
            self.text(path, auth)
        except urllib.error.HTTPError as error:
            with error:
                return error.code
        except OSError:
            return None
        return 200


@pytest.fixture(scope="module")
def flower(
    worker: LocalWorker,
    runs: Runs,
    tmp_path_factory: pytest.TempPathFactory,
    wait_until: WaitUntil,
) -> Iterator[Flower]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    chosen = worker.settings.model_copy(
        update={"flower_password": SecretStr(PASSWORD), "parent_pid": None}
    )
    log_path = tmp_path_factory.mktemp("flower") / "log"
    with log_path.open("wb") as log:
        command = [Path(sys.executable).with_name("orchestrator"), "flower", "--port", str(port)]
        process = subprocess.Popen(
            command, cwd=log_path.parent, env=chosen.child_environment(), stdout=log, stderr=log
        )
    flower = Flower(port, process.pid)
    try:
        wait_until(
            lambda: process.poll() is not None or flower.status("/api/tasks", None) is not None
        )
        assert process.poll() is None, log_path.read_text()
        with runs.app.events.default_dispatcher() as dispatcher:
            # until it has one, Flower does not listen yet
            wait_until(
                lambda: (
                    dispatcher.send(
                        "task-received", uuid="probe", name="probe", args="()", kwargs="{}"
                    )
                    or "probe" in flower.get("/api/tasks")
                )
            )
        yield flower
    finally:
        process.terminate()
        process.wait(20)
    assert PASSWORD not in log_path.read_text()


def test_every_step_stands_under_its_name_with_run_step_and_attempt(
    runs: Runs, flower: Flower, pipeline_from: PipelineFrom, wait_until: WaitUntil
) -> None:
    record = runs.run(
        pipeline_from("""
            @step
            def good():
                return 1

            @step(retries=1, retry_delay=0)
            def bad(value):
                raise ValueError("bad")

            @pipeline(name="seen-in-flower")
            def seen():
                bad(good())
        """)
    )

    def tasks() -> dict[tuple[str, int], tuple[str, str]]:
        found = {}
        for task in flower.get("/api/tasks").values():
            kwargs = ast.literal_eval(task["kwargs"] or "{}")
            if kwargs.get("run_id") == record.run_id:
                found[kwargs["step"], kwargs["attempt"]] = (task["name"], task["state"])
        return found

    ends = {"SUCCESS", "RETRY", "FAILURE"}
    wait_until(
        lambda: [state for _, state in tasks().values() if state in ends] and len(tasks()) == 3
    )
    wait_until(lambda: all(state in ends for _, state in tasks().values()))
    assert tasks() == {
        ("good", 1): ("seen-in-flower.good", "SUCCESS"),
        ("bad", 1): ("seen-in-flower.bad", "RETRY"),
        ("bad", 2): ("seen-in-flower.bad", "FAILURE"),
    }


def test_metrics_have_few_buckets_for_each_step(
    runs: Runs, flower: Flower, pipeline_from: PipelineFrom, wait_until: WaitUntil
) -> None:
    runs.run(
        pipeline_from("""
            @step
            def quick():
                return 1

            @pipeline(name="measured")
            def measured():
                quick()
        """)
    )

    def buckets() -> list[str]:
        text = flower.text("/metrics")
        series = re.findall(r"^flower_task_runtime_seconds_bucket{(.*)} ", text, re.MULTILINE)
        return [
            re.search(r'le="(.*?)"', labels)[1]
            for labels in series
            if 'task="measured.quick"' in labels
        ]

    wait_until(lambda: buckets())
    assert buckets() == ["1.0", "10.0", "60.0", "600.0", "3600.0", "+Inf"]


@pytest.mark.parametrize("path", ["/", "/api/tasks", "/api/workers", "/tasks", "/metrics"])
def test_nobody_sees_anything_without_the_password(flower: Flower, path: str) -> None:
    assert flower.status(path, None) == 401
    assert flower.status(path, "admin:wrong") == 401


def test_it_listens_on_this_machine_only_and_keeps_the_password_off_the_command_line(
    flower: Flower,
) -> None:
    process = psutil.Process(flower.pid)

    listening = {
        connection.laddr
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {("127.0.0.1", flower.port)}
    assert not any(PASSWORD in word for word in process.cmdline())
    assert any(word.startswith("--max-tasks=") for word in process.cmdline())


GATED = """
    from pathlib import Path

    @step
    def held(folder):
        import time
        Path(folder, "began").touch()
        while not Path(folder, "gate").exists():
            time.sleep(0.01)

    @pipeline(name="gated")
    def gated(folder: str):
        held(folder)
"""


def states_of(flower: Flower, run_id: str) -> dict[str, list[str]]:
    """Return what Flower says of the messages of a run, by step and attempt."""
    found = {}
    for task in flower.get("/api/tasks").values():
        if run_id in (task["kwargs"] or ""):
            kwargs = ast.literal_eval(task["kwargs"])
            found.setdefault((kwargs["step"], kwargs["attempt"]), []).append(task["state"])
    return {name: sorted(states) for name, states in found.items()}


@pytest.mark.parametrize(
    "ending", ["", "import signal; signal.signal(signal.SIGUSR2, signal.SIG_IGN)"]
)
def test_a_cancelled_step_is_revoked_and_no_failure(
    runs: Runs,
    flower: Flower,
    pipeline_from: PipelineFrom,
    wait_until: WaitUntil,
    tmp_path: Path,
    ending: str,
) -> None:
    """Also one that does not end when it is asked to, and is killed."""
    source = GATED.replace("import time", f"import time; {ending}")
    run_id = runs.submit(pipeline_from(source, {"folder": str(tmp_path)}))
    runs.wait(run_id, lambda _: (tmp_path / "began").exists())

    runs.ledger.cancel(run_id, "by the test")

    wait_until(lambda: states_of(flower, run_id) == {("held", 1): ["REVOKED"]})


def test_a_message_that_ran_nothing_is_rejected_and_no_success(
    runs: Runs, flower: Flower, pipeline_from: PipelineFrom, wait_until: WaitUntil, tmp_path: Path
) -> None:
    run_id = runs.submit(pipeline_from(GATED, {"folder": str(tmp_path)}))
    runs.wait(run_id, lambda _: (tmp_path / "began").exists())
    chains = Ready([Chain("gated", (Link("held", 1, runs.settings.queue_of(), 5, 0),))])
    Dispatcher(runs.app, runs.ledger).send(run_id, chains)  # the second of its kind
    Dispatcher(runs.app, runs.ledger).send("no-such-run", chains)

    wait_until(lambda: states_of(flower, run_id) == {("held", 1): ["REJECTED", "STARTED"]})
    wait_until(lambda: states_of(flower, "no-such-run") == {("held", 1): ["REJECTED"]})

    (tmp_path / "gate").touch()
    wait_until(lambda: states_of(flower, run_id) == {("held", 1): ["REJECTED", "SUCCESS"]})


def test_a_worker_that_came_later_is_there_without_a_refresh(
    flower: Flower, own_worker: OwnWorker, wait_until: WaitUntil
) -> None:
    with own_worker() as later:
        (name,) = [
            card.worker
            for card in present_workers(later.ledger.client, later.settings.key_prefix)
            if later.settings.queue_of() in card.queues
        ]

        def looked_at() -> object:
            found = flower.get("/api/workers").get(name, {})
            return "stats" in found and [queue["name"] for queue in found.get("active_queues", [])]

        wait_until(looked_at)
        assert looked_at() == [later.settings.queue_of()]


def test_metrics_do_not_grow_with_the_names_of_steps(
    flower: Flower, runs: Runs, wait_until: WaitUntil
) -> None:
    """Steps of a fan-out share a name, and beyond 500 names all share one; so do events that are
    not Celery's."""

    def names() -> set[str]:
        return set(re.findall(r'flower_events_total{task="([^"]*)"', flower.text("/metrics")))

    with runs.app.events.default_dispatcher() as dispatcher:

        def send(kind: str, number: int, name: str) -> None:
            dispatcher.send(kind, uuid=f"{name}-{number}", name=name, args="()", kwargs="{}")

        for number in range(50):
            send("task-received", number, f"grown.fit[{number / 50}]")
        send("task-no-such-kind", 0, "grown.fit[0]")
        wait_until(lambda: "grown.fit[]" in names())
        assert not any("grown.fit[0" in name for name in names())
        for number in range(700):
            send("task-received", number, f"grown.step{number}")
        wait_until(lambda: "other" in names())
        send("task-received", 1, "grown.last")
        wait_until(lambda: "grown.last-1" in flower.get("/api/tasks?limit=5"))

    text = flower.text("/metrics")
    assert len(names()) <= 501
    assert "grown.last" not in names()
    assert set(re.findall(r'flower_events_total{.*type="(task-[^"]*)"', text)) <= {
        f"task-{kind}" for kind in ("sent", "received", "started", "succeeded", "failed",
        "rejected", "revoked",
                                    "retried", "other")
    }  # fmt: skip


@pytest.mark.parametrize(
    ("owner", "names"),
    [
        (
            flower_package.events.PrometheusMetrics,
            ["observe_task", "observe_worker", "remove_workers"],
        ),
        (flower_package.events.Events, ["on_event"]),
        (flower_package.events, ["PrometheusMetrics", "EventsState"]),
        (flower_package.events.EventsState, ["event"]),
        (flower_package.app.Flower, ["update_workers"]),
        (Inspector, ["methods_to_inspect", "inspect"]),
        (flower_package.app, ["Events"]),
        (flower_package.command, ["Flower"]),
    ],
)
def test_what_is_replaced_in_flower_is_there(owner: Any, names: list[Any]) -> None:
    assert [name for name in names if not hasattr(owner, name)] == []
    assert (
        sum(
            isinstance(handler, tuple) and handler[1] is Metrics
            for handler in flower_package.urls.handlers
        )
        == 1
    )


def test_names_are_bounded() -> None:
    bounded = BoundedNames(most=2)

    assert [bounded(name) for name in ("p.a[1]", "p.a[2]", "p.b[x][y]", "p.c", "p.b[0][1]")] == [
        "p.a[]", "p.a[]", "p.b[][]", "other", "p.b[][]",
    ]  # fmt: skip
