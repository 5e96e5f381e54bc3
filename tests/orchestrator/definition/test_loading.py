"""Pipelines from files and modules."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from orchestrator import PipelineInvalid
from orchestrator.definition.loading import load
from orchestrator.definition.pipeline import FunctionCall

_numbers = count()

ONE = """
from orchestrator import pipeline, step

@step
def train(gate: float) -> float:
    return gate

@pipeline
def churn(gate: float = 0.8) -> None:
    train(gate)
"""


@pytest.fixture(autouse=True)
def _import_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give back sys.path and sys.modules as they were."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def written(folder: Path, text: str, suffix: str = ".py") -> Path:
    path = folder / f"loaded_{next(_numbers)}{suffix}"
    path.write_text(text)
    return path


def fault_of(target: object) -> str:
    with pytest.raises(PipelineInvalid) as caught:
        load(str(target))
    (fault,) = caught.value.faults
    return fault


def test_the_only_pipeline_of_a_file_needs_no_name(tmp_path: Path) -> None:
    path = written(tmp_path, ONE)

    definition = load(str(path))
    built = definition.build({"gate": 0.5})

    assert (definition.name, list(definition.params)) == ("churn", ["gate"])
    assert built.import_path == str(tmp_path)
    assert str(tmp_path) in sys.path
    assert built.steps["train"].call == FunctionCall(f"{path.stem}:train", (0.5,), {})


def test_a_file_in_a_package_is_imported_from_above_it(tmp_path: Path) -> None:
    package = tmp_path / f"package_{next(_numbers)}" / "inner"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package.parent / "__init__.py").touch()
    path = written(package, ONE)

    built = load(str(path)).build()

    assert built.import_path == str(tmp_path)
    call = built.steps["train"].call
    assert isinstance(call, FunctionCall)
    assert call.uses == f"{package.parent.name}.inner.{path.stem}:train"


def test_one_of_several_is_named_by_variable_or_by_pipeline(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        ONE + "\n@pipeline(name='second-one')\ndef second() -> None: ...\nfrom orchestrator import"
        " PipelineBuilder\nthird = PipelineBuilder('third-one')\nfourth = third.build()\n",
    )

    assert load(f"{path}:second").name == "second-one"
    assert load(f"{path}:second-one").name == "second-one"
    assert load(f"{path}:third").build().import_path == str(tmp_path)
    assert load(f"{path}:fourth").build().name == "third-one"
    assert (
        "holds 4 pipelines: churn, second, third, fourth. Name one, as in FILE:NAME."
        in fault_of(path)
    )
    assert "holds no pipeline 'chrn'. Did you mean 'churn'?" in fault_of(f"{path}:chrn")


def test_a_built_pipeline_takes_no_params(tmp_path: Path) -> None:
    path = written(
        tmp_path, "from orchestrator import PipelineBuilder\np = PipelineBuilder('p').build()\n"
    )
    with pytest.raises(PipelineInvalid, match="param 'x' cannot be given"):
        load(str(path)).build({"x": 1})


def test_a_file_without_a_pipeline_says_so(tmp_path: Path) -> None:
    assert "holds no pipeline. Write a function with @pipeline" in fault_of(
        written(tmp_path, "x = 1\n")
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\ndef f(:\n", ":2: SyntaxError: "),
        ("x = '\0'\n", ": SyntaxError: source code string cannot contain null bytes."),
        ("x = 1\n\n1 / 0\n", ":3: ZeroDivisionError: division by zero"),
        (
            "import no_such_module_here\n",
            ":1: ModuleNotFoundError: No module named 'no_such_module_here'",
        ),
        (
            "import no_such_module_here\n",
            "No module named 'no_such_module_here'. This environment (",
        ),
        ("import json\njson.loads('{')\n", ":2: JSONDecodeError"),
        ("raise SystemExit(3)\n", ":1: SystemExit: 3"),
    ],
)
def test_what_a_file_raises_is_told_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    path = written(tmp_path, text)
    fault = fault_of(path)
    assert said in fault
    assert f"{path.name}:" in fault


def test_a_missing_file_is_told_with_a_guess(tmp_path: Path) -> None:
    (tmp_path / "churn.yaml").touch()
    assert "Did you mean 'churn.yaml'?" in fault_of(tmp_path / "chrun.yaml")
    assert "there is no folder" in fault_of(tmp_path / "nope" / "churn.yaml")
    (tmp_path / "churn.txt").touch()
    assert "is not a pipeline file" in fault_of(tmp_path / "churn.txt")
    (tmp_path / "a.py").mkdir()
    assert "is a folder" in fault_of(tmp_path / "a.py")


def test_a_file_named_like_a_loaded_module_is_refused(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text(ONE)
    assert "module 'json' is loaded from" in fault_of(tmp_path / "json.py")


def test_a_module_is_found_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, ONE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])

    assert load(path.stem).build().import_path == str(tmp_path)
    assert load(f"{path.stem}:churn").name == "churn"
    assert f"Did you mean '{path.stem}" in fault_of(path.stem + "x")


def test_a_yaml_file_finds_functions_beside_it(tmp_path: Path) -> None:
    module = written(tmp_path, "def f(x): return x\n")
    path = written(
        tmp_path, f"name: p\nsteps: {{a: {{uses: '{module.stem}:f', args: [1]}}}}\n", ".yaml"
    )

    assert load(f"{path}:p").build().import_path == str(tmp_path)
    assert "holds the pipeline 'p', not 'q'" in fault_of(f"{path}:q")


def test_a_json_file_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, '{"steps": {"a": {"run": "true"}}}', ".json")
    assert load(str(path)).build().name == path.stem


def test_a_script_names_its_functions_by_its_file(tmp_path: Path) -> None:
    path = written(
        tmp_path, ONE + "\nb = churn.build()\nprint(b.steps['train'].call.uses, b.import_path)\n"
    )
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [f"{path.stem}:train", str(tmp_path)]


def test_the_definition_side_loads_neither_redis_nor_celery() -> None:
    code = (
        "import sys, orchestrator, orchestrator.definition.loading, orchestrator.definition.retry, "
        "orchestrator.definition.document\n"
        "print([name for name in ('redis', 'celery', 'kombu', 'click') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
