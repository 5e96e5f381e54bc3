"""A project of several modules, as somebody builds it from the docs: a notebook, tests, a sweep, a
step that fails and is looked into at the desk, a rerun, compared outputs, old runs deleted."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable

import pytest

from tests.support.notebook import run_cells
from tests.support.place import Place

DATA = """
    from orchestrator import step

    @step
    def load(rows: int):
        print("loading", rows)
        return [{"months": month, "left": month % 4 == 0} for month in range(1, rows + 1)]
"""
MODELS = """
    from orchestrator import step

    @step
    def fit(customers, depth):
        threshold = len(customers) / (depth - 3)
        return {"depth": depth, "score": sum(c["left"] for c in customers) / threshold}

    @step
    def best(models):
        return max(models, key=lambda model: model["score"])
"""
PIPELINE = """
    from churn.data import load
    from churn.models import best, fit
    from orchestrator import pipeline

    @pipeline
    def churn(rows: int = 40, deepest: int = 6):
        customers = load(rows)
        best([fit.options(name=f"fit[{n}]")(customers, n) for n in range(4, deepest + 1)])
"""
TESTS = """
    from churn.pipeline import churn

    def test_the_deepest_is_best():
        assert churn.run_local(rows=8).output("best")["depth"] == 6
"""
SWEEP = """
    import orchestrator
    from churn.pipeline import churn

    if __name__ == "__main__":
        runs = [orchestrator.submit(churn, rows=n, labels={"sweep": "rows"}) for n in (8, 16)]
        print([run.wait(60).output("best")["score"] for run in runs])
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, place_in: Callable[..., Place]) -> Place:
    place = place_in(tmp_path_factory.mktemp("project") / "project")
    package = place.folder / "churn"
    package.mkdir()
    sources = {"__init__": "", "data": DATA, "models": MODELS, "pipeline": PIPELINE}
    for name, source in sources.items():
        (package / f"{name}.py").write_text(textwrap.dedent(source))
    (place.folder / "test_churn.py").write_text(textwrap.dedent(TESTS))
    (place.folder / "sweep.py").write_text(textwrap.dedent(SWEEP))
    return place


def python(project: Place, *arguments: str) -> str:
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, cwd=project.folder, env=project.environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_project_from_its_first_test_to_its_last_deletion(project: Place) -> None:
    assert "1 passed" in python(project, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert python(project, "sweep.py") == "[0.75, 0.75]\n"
    swept = [row["run_id"] for row in project.call("runs", "--label", "sweep=rows", "--json").json]
    assert len(swept) == 2

    # A param that nobody tried, a step that fails, and the same failure at the desk.
    models = project.folder / "churn" / "models.py"
    models.write_text(models.read_text().replace("(depth - 3)", "(depth - 5)"))
    failed = project.call("run", "churn.pipeline")
    assert failed.code == 1
    assert "fit[5] failed: ZeroDivisionError" in failed.out
    assert "fit[..]  2 succeeded, 1 failed" in project.call("show", "last").out
    at_desk = project.call("step", "last", "fit[5]")
    assert (at_desk.code, 'churn/models.py", line 6, in fit' in at_desk.err) == (1, True)
    models.write_text(models.read_text().replace("(depth - 5)", "(depth - 2)"))
    assert '"score": 0.75' in project.call("step", "last", "fit[5]").out
    resumed = project.call("resume", "last", "--from", "load", "--json").json
    assert (resumed["state"], resumed["resumes"]) == ("succeeded", 1)

    # Another param, and what it changed.
    rerun = project.call("rerun", "last", "-p", "deepest=7", "--json").json
    outputs = [
        {name: step["output"] for name, step in run["steps"].items()} for run in (resumed, rerun)
    ]
    assert outputs[0]["load"] == outputs[1]["load"]
    assert (outputs[0]["best"]["depth"], outputs[1]["best"]["depth"]) == (6, 7)
    assert rerun["rerun_of"] == resumed["run_id"]

    # What is not needed any more goes, what another run needs stays.
    assert project.call("delete", "--older-than", "0s", "--label", "sweep=rows", "--yes").code == 0
    kept = [row["run_id"] for row in project.call("runs", "--json").json]
    assert kept == [rerun["run_id"], resumed["run_id"]]
    assert project.call("delete", resumed["run_id"], "--yes").code == 1
    assert project.call("verify", "last").code == 0


def test_a_notebook_works_with_the_same_modules(project: Place) -> None:
    results = run_cells(
        project,
        [
            "import orchestrator\nfrom churn.pipeline import churn",
            "run = orchestrator.run(churn, rows=12)\nrun.output('best')['depth']",
            "run",
            "orchestrator.close()",
        ],
    )

    assert results[1] == "6"
    assert "<td>fit[5]</td>" in results[2]
