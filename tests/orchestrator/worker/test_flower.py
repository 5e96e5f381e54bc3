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

import psutil
import pytest
from pydantic import SecretStr

PASSWORD = "pass word"


class Flower:
    def __init__(self, port: int, pid: int) -> None:
        self.port, self.pid = port, pid

    def get(self, path, auth=f"admin:{PASSWORD}"):
        return json.loads(self.text(path, auth))

    def text(self, path, auth=f"admin:{PASSWORD}"):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}")
        if auth:
            request.add_header("Authorization", "Basic " + base64.b64encode(auth.encode()).decode())
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.read().decode()

    def status(self, path, auth):
        try:
            self.text(path, auth)
        except urllib.error.HTTPError as error:
            with error:
                return error.code
        except OSError:
            return None
        return 200


@pytest.fixture(scope="module")
def flower(worker, runs, tmp_path_factory, wait_until) -> Iterator[Flower]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    chosen = worker.settings.model_copy(update={"flower_password": SecretStr(PASSWORD), "parent_pid": None})
    log_path = tmp_path_factory.mktemp("flower") / "log"
    with log_path.open("wb") as log:
        command = [Path(sys.executable).with_name("orchestrator"), "flower", "--port", str(port)]
        process = subprocess.Popen(command, cwd=log_path.parent, env=chosen.child_environment(), stdout=log, stderr=log)
    flower = Flower(port, process.pid)
    try:
        wait_until(lambda: process.poll() is not None or flower.status("/api/tasks", None) is not None)
        assert process.poll() is None, log_path.read_text()
        with runs.app.events.default_dispatcher() as dispatcher:  # until it has one, Flower does not listen yet
            wait_until(
                lambda: (
                    dispatcher.send("task-received", uuid="probe", name="probe", args="()", kwargs="{}")
                    or "probe" in flower.get("/api/tasks")
                )
            )
        yield flower
    finally:
        process.terminate()
        process.wait(20)
    assert PASSWORD not in log_path.read_text()


def test_every_step_stands_under_its_name_with_run_step_and_attempt(runs, flower, pipeline_from, wait_until):
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

    def tasks():
        found = {}
        for task in flower.get("/api/tasks").values():
            kwargs = ast.literal_eval(task["kwargs"] or "{}")
            if kwargs.get("run_id") == record.run_id:
                found[kwargs["step"], kwargs["attempt"]] = (task["name"], task["state"])
        return found

    ends = {"SUCCESS", "RETRY", "FAILURE"}
    wait_until(lambda: [state for _, state in tasks().values() if state in ends] and len(tasks()) == 3)
    wait_until(lambda: all(state in ends for _, state in tasks().values()))
    assert tasks() == {
        ("good", 1): ("seen-in-flower.good", "SUCCESS"),
        ("bad", 1): ("seen-in-flower.bad", "RETRY"),
        ("bad", 2): ("seen-in-flower.bad", "FAILURE"),
    }


def test_metrics_have_few_buckets_for_each_step(runs, flower, pipeline_from, wait_until):
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

    def buckets():
        text = flower.text("/metrics", None)
        series = re.findall(r"^flower_task_runtime_seconds_bucket{(.*)} ", text, re.MULTILINE)
        return [re.search(r'le="(.*?)"', labels)[1] for labels in series if 'task="measured.quick"' in labels]

    wait_until(lambda: buckets())
    assert buckets() == ["1.0", "10.0", "60.0", "600.0", "3600.0", "+Inf"]


@pytest.mark.parametrize("path", ["/", "/api/tasks", "/api/workers", "/tasks"])
def test_nobody_sees_anything_without_the_password(flower, path):
    assert flower.status(path, None) == 401
    assert flower.status(path, "admin:wrong") == 401


def test_it_listens_on_this_machine_only_and_keeps_the_password_off_the_command_line(flower):
    process = psutil.Process(flower.pid)

    listening = {
        connection.laddr for connection in process.net_connections("inet") if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {("127.0.0.1", flower.port)}
    assert not any(PASSWORD in word for word in process.cmdline())
    assert any(word.startswith("--max-tasks=") for word in process.cmdline())
