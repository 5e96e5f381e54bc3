"""A folder of the user's among all that can be imported."""

from __future__ import annotations

import importlib
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from orchestrator.definition.folders import put_on_path, users_folders_aside


@pytest.fixture(autouse=True)
def same_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])


def test_it_stands_behind_the_standard_library_and_before_what_is_installed(tmp_path: Path) -> None:
    put_on_path(str(tmp_path))

    place = sys.path.index(str(tmp_path))
    assert sysconfig.get_path("stdlib") in sys.path[:place]
    assert sysconfig.get_path("purelib") in sys.path[place:]


def test_the_folder_that_came_last_stands_before_those_that_were_there(tmp_path: Path) -> None:
    for name in ("first", "second"):
        put_on_path(str(tmp_path / name))

    assert sys.path.index(str(tmp_path / "second")) + 1 == sys.path.index(str(tmp_path / "first"))


# the last one is of another system
@pytest.mark.parametrize("name", ["colorsys", "wave", "winreg"])
def test_a_file_is_never_taken_for_a_module_of_python_whoever_puts_its_folder_first(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / f"{name}.py").write_text("raise RuntimeError('the wrong one')\n")
    code = (
        "import sys; from orchestrator.definition.folders import put_on_path;"
        f" put_on_path({str(tmp_path)!r})\nsys.path.insert(0, {str(tmp_path)!r})\ntry: import"
        f" {name}\nexcept ModuleNotFoundError: pass\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_users_own_modules_are_found_and_set_aside(tmp_path: Path) -> None:
    (tmp_path / "set_aside.py").touch()
    put_on_path(str(tmp_path))

    with users_folders_aside(), pytest.raises(ModuleNotFoundError):
        importlib.import_module("set_aside")
    assert importlib.import_module("set_aside")
