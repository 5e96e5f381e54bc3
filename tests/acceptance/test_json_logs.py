"""With `log_format = "json"` every line that a service writes is a JSON object."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
LIMIT_S = 40.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["serve"], "serves"), (["worker"], "ready."), (["flower"], "Flower on http://")],
    ids=["serve", "worker", "flower"],
)
@pytest.mark.timeout(300)
def test_every_line_of_a_service_is_a_json_object(
    tmp_path, shared_redis_url, wait_until, arguments, says
) -> None:
    if arguments == ["flower"]:
        arguments = ["flower", "--port", str(free_port())]
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("ORCHESTRATOR_")
    } | {
        "ORCHESTRATOR_REDIS_URL": shared_redis_url,
        "ORCHESTRATOR_KEY_PREFIX": f"json-{arguments[0]}",
        "ORCHESTRATOR_LOG_FORMAT": "json",
    }
    log_path = tmp_path / "log"
    with log_path.open("wb") as log:
        service = subprocess.Popen(
            [str(BIN / "orchestrator"), *arguments], cwd=tmp_path, env=environment,
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        wait_until(lambda: says in log_path.read_text() or service.poll() is not None, LIMIT_S)
        assert service.poll() is None, log_path.read_text()
        service.send_signal(signal.SIGTERM)
        service.wait(LIMIT_S)
    finally:
        service.kill()
        service.wait()

    lines = [json.loads(line) for line in log_path.read_text().splitlines()]
    assert any(says in line["message"] for line in lines)
    assert all({"time", "level", "logger", "message", "process"} <= line.keys() for line in lines)
