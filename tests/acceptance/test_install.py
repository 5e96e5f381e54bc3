"""The package as a stranger gets it: its wheel and what it declares, in an environment that holds
nothing else.

Needs a package index (or wheels on disk), as every `pip install` does; skipped with a reason where
none is reached.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
INSTALL_LIMIT_S = 600
LIMIT_S = 60

pytestmark = pytest.mark.timeout(INSTALL_LIMIT_S + 200)


class Environment:
    """A virtual environment, and commands that see nothing of ours."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"

    def variables(self) -> dict[str, str]:
        inherited = {
            k: v for k, v in os.environ.items() if not k.startswith(("ORCHESTRATOR_", "PYTHON"))
        }
        # A system without time zones, as small images are.
        return inherited | {"PATH": f"{self.bin}{os.pathsep}{os.defpath}", "PYTHONTZPATH": ""}

    def start(self, folder: Path, *command: str) -> subprocess.Popen[bytes]:
        with (folder.parent / f"{folder.name}-{command[1]}.log").open("wb") as log:
            return subprocess.Popen(
                [self.bin / command[0], *command[1:]],
                cwd=folder, env=self.variables(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def call(self, folder: Path, *command: str) -> str:
        """Return what a command prints; fail unless it ends with 0."""
        done = subprocess.run(
            [self.bin / command[0], *command[1:]], cwd=folder, env=self.variables(),
            stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=LIMIT_S,
        )  # fmt: skip
        logs = "\n".join(
            path.read_text(errors="replace") for path in folder.parent.glob(f"{folder.name}-*.log")
        )
        assert done.returncode == 0, f"{shlex.join(command)}: {done.stdout}{done.stderr}\n{logs}"
        return done.stdout


def pip(folder: Path, *arguments: str) -> None:
    """Run the pip of this test's own environment for another one's; skip when there is no index to
    ask."""
    command = [sys.executable, "-m", "pip", *arguments]
    given = {"cwd": folder, "capture_output": True, "text": True, "timeout": INSTALL_LIMIT_S}
    done = subprocess.run(command, **given)  # type: ignore[call-overload]
    if done.returncode == 0:
        return
    probe = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--no-cache-dir",
        "-d",
        str(folder / "probe"),
        "vine",
    ]
    if subprocess.run(probe, **given).returncode != 0:  # type: ignore[call-overload]
        pytest.skip(f"no package index can be reached: {done.stderr.strip().splitlines()[-1]}")
    pytest.fail(f"{shlex.join(command)}\n{done.stdout}{done.stderr}")


def copied_to_src() -> list[str]:
    """Return what the Dockerfile copies to the folder in which it calls pip."""
    text = (ROOT / "Dockerfile").read_text().partition("WORKDIR /app")[0]
    return [
        word
        for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE)
        for word in line.split()[:-1]
    ]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder from which the image is installed: no more than the Dockerfile copies."""
    folder = tmp_path_factory.mktemp("image") / "src"
    folder.mkdir()
    for name in copied_to_src():
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def bare(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment that holds the built wheel and its declared dependencies alone."""
    folder = tmp_path_factory.mktemp("bare")
    environment = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    pip(folder, "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(source))
    (wheel,) = folder.glob("*.whl")
    python = ["--python", str(environment / "bin" / "python")]
    pip(folder, *python, "install", "--quiet", "-c", str(ROOT / "constraints.txt"), str(wheel))
    return Environment(environment)


@contextmanager
def service(bare: Environment, folder: Path, *command: str) -> Iterator[None]:
    process = bare.start(folder, *command)
    try:
        yield
        assert process.poll() is None, f"{shlex.join(command)} ended by itself"
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT_S) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.wait()


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def status_of(url: str) -> int:
    """Return the HTTP status of a page, 0 while nobody listens."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code
    except OSError:
        return 0


def first_example() -> tuple[str, str]:
    """Return the first Python file of the README and the first command that runs it."""
    text = (ROOT / "README.md").read_text()
    (code,) = re.findall(r"^```python\n(# scores\.py\n.*?)^```", text, re.DOTALL | re.MULTILINE)
    command = re.search(r"^\$ (orchestrator run scores\.py.*)$", text, re.MULTILINE)
    assert command
    return code, command[1]


def test_the_wheel_installs_one_import_name_and_needs_nothing_undeclared(
    bare: Environment, tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    installed = {path.name for path in bare.bin.parent.glob("lib/python*/site-packages/*")}
    assert "orchestrator" in installed
    assert (
        not {"workers", "tests", "examples", "config", "docs", "pytest", "setuptools"} & installed
    )

    code, command = first_example()
    (tmp_path / "scores.py").write_text(code)
    assert "best gave 36.0" in bare.call(tmp_path, *shlex.split(command))
    findings = json.loads(bare.call(tmp_path, "orchestrator", "doctor", "--json"))["findings"]
    assert [item for item in findings if item["level"] == "fault"] == []

    port = free_port()
    with ExitStack() as stack:
        for words in (
            ["serve"],
            ["worker", "--pool", "cpu", "--concurrency", "2"],
            ["flower", "--port", port],
        ):
            stack.enter_context(service(bare, tmp_path, "orchestrator", *words))

        def is_served() -> bool:
            found = json.loads(bare.call(tmp_path, "orchestrator", "doctor", "--json"))["findings"]
            return {"coordinators"} <= {item["what"] for item in found} and any(
                "2 slots" in i["found"] for i in found
            )

        wait_until(is_served)
        run_id = bare.call(tmp_path, "orchestrator", "submit", "scores.py").strip()
        bare.call(tmp_path, "orchestrator", "events", run_id, "--follow")
        assert (
            json.loads(bare.call(tmp_path, "orchestrator", "show", run_id, "--json"))["state"]
            == "succeeded"
        )
        wait_until(lambda: status_of(f"http://127.0.0.1:{port}/"))
        assert status_of(f"http://127.0.0.1:{port}/") == 401


def test_the_line_of_the_image_installs_what_the_examples_need(
    bare: Environment, source: Path, tmp_path: Path
) -> None:
    (line,) = re.findall(
        r"^RUN pip install --no-cache-dir (.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE
    )

    pip(source, "--python", str(bare.bin / "python"), "install", "--quiet", *shlex.split(line))

    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    assert "succeeded" in bare.call(tmp_path, "orchestrator", "run", "examples/hello.py")
    assert "train" in bare.call(tmp_path, "orchestrator", "plan", "examples/digits.py")
