"""`init` makes a project that runs, and shells complete what is typed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.place import Place

MADE = {"training.py", "test_training.py", "conftest.py", "config/orchestrator.toml", ".gitignore"}


def files(folder: Path) -> set[str]:
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and ".orchestrator" not in path.parts
    }


def test_a_new_project_runs_and_its_tests_pass(place: Place, tmp_path: Path) -> None:
    made = place.call("init", "new")
    project = Place(place.folder / "new")
    assert made.code == 0
    assert made.out.endswith(
        "next:\n  cd new\n  orchestrator run training.py\n  python -m pytest   # pip install pytest\n"
    )
    assert files(project.folder) == MADE

    run = project.call("run", "training.py", "--json")
    noisy = project.call("run", "training.py", "-p", "noise=9")
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=project.folder,
        env=project.environment(),
        capture_output=True,
        text=True,
    )

    assert (run.code, noisy.code, tests.returncode) == (0, 1, 0), tests.stdout
    assert "3 passed" in tests.stdout
    assert run.json["labels"] == {"project": "training"}
    assert "gate failed: ValueError: the error" in noisy.out


def test_no_file_is_replaced(place: Place) -> None:
    place.write("conftest.py", "mine = 1\n")

    refused = place.call("init")

    assert refused.code == 2
    assert ". already has conftest.py. Nothing was written." in refused.err
    assert files(place.folder) == {"conftest.py"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_a_script(place: Place, shell: str) -> None:
    script = place.call("completion", shell).out

    assert "_ORCHESTRATOR_COMPLETE" in script
    if program := shutil.which(shell):
        done = subprocess.run([program, "-c", script], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")


def completed(place: Place, *words: str) -> list[str]:
    """Return what a shell would offer for the last word."""
    variables = {
        "_ORCHESTRATOR_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(["orchestrator", *words]),
        "COMP_CWORD": str(len(words)),
    }
    done = subprocess.run(
        [place.command],
        cwd=place.folder,
        env={**place.environment(), **variables},
        capture_output=True,
        text=True,
    )
    return list(filter(None, done.stdout.splitlines()))


def test_commands_runs_and_steps_are_completed(place: Place) -> None:
    file = place.write("two.yaml", "steps: {first: {run: 'true'}, fifth: {run: 'true'}}")
    place.call("run", file)
    (row,) = place.call("runs", "--json").json

    assert completed(place, "re") == ["plain,resume", "plain,rerun"]
    assert completed(place, "show", "") == ["plain,last", f"plain,{row['run_id']}"]
    assert completed(place, "logs", "last", "fi") == ["plain,first", "plain,fifth"]
    assert completed(place, "step", row["run_id"], "fif") == ["plain,fifth"]
    assert completed(place, "logs", "nothing", "") == []
    assert completed(place, "run", "tw") == ["file,tw"]
    assert "plain,--logs" in completed(place, "run", "--l")
