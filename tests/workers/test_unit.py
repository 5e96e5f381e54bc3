"""The systemd unit and the README of `workers/` fit the worker that they start."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from orchestrator.cli.main import COMMANDS, main
from orchestrator.settings.model import Settings

WORKERS = Path(__file__).parents[2] / "workers"
UNIT = WORKERS / "orchestrator-worker@.service"


@pytest.fixture(scope="module")
def service() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT)
    return parser["Service"]


def test_it_gives_a_worker_the_time_to_drain_and_signals_its_main_process_alone(
    service: configparser.SectionProxy,
) -> None:
    minutes = re.fullmatch(r"(\d+)min", service["TimeoutStopSec"])
    assert minutes
    assert int(minutes[1]) * 60 > Settings().drain_grace_s
    assert service["KillMode"] == "mixed"


def test_its_command_is_ours_and_takes_these_options(service: configparser.SectionProxy) -> None:
    program, command, *options = shlex.split(service["ExecStart"])

    assert Path(program).name == "orchestrator"
    assert command in COMMANDS
    found = main.get_command(click.Context(main), command)
    assert found
    found.make_context(command, options)


def test_systemd_accepts_it(tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed here")
    unit = tmp_path / "orchestrator-worker@cpu.service"
    unit.write_text(UNIT.read_text().replace("/opt/orchestrator/bin/orchestrator", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert unit.name not in done.stderr, done.stderr


def test_the_readme_names_every_file() -> None:
    text = (WORKERS / "README.md").read_text()
    files = {path.name for path in WORKERS.iterdir() if path.is_file()} - {"README.md"}
    assert {name for name in files if f"`{name}`" not in text} == set()
