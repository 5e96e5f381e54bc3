"""The pytest fixture, as a project's own tests use it."""

from __future__ import annotations

import subprocess
import sys
import textwrap

from tests.support.place import Place

CHURN = """
    from pathlib import Path

    @step
    def fit(rows, folder):
        (Path(folder) / "ran").write_text("on a worker")
        return rows * 2

    @pipeline
    def churn(folder: str, rows: int = 2):
        fit(rows, folder)
"""
CONFTEST = "from orchestrator.testing import orchestrator_stack\n"
TESTS = """
    import os
    import pytest
    import orchestrator
    from churn import churn

    @pytest.mark.parametrize("rows", [2, 5])
    def test_churn(orchestrator_stack, rows, tmp_path):
        run = orchestrator_stack.run(churn, rows=rows, folder=str(tmp_path))
        assert run.output("fit") == 2 * rows
        assert (tmp_path / "ran").read_text() == "on a worker"

    def test_it_is_one_stack_for_all_tests(orchestrator_stack):
        assert len(orchestrator_stack.list_runs(pipeline="churn")) == 2
        assert orchestrator_stack.open_run("last").state == "succeeded"
        assert orchestrator_stack.data_dir.is_dir()
"""


def test_a_projects_tests_run_pipelines_on_a_stack_of_their_own(place: Place) -> None:
    place.write("churn.py", CHURN)
    (place.folder / "conftest.py").write_text(CONFTEST)
    (place.folder / "test_churn.py").write_text(textwrap.dedent(TESTS))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]

    # A server that is configured for real runs is not touched by tests.
    done = subprocess.run(
        command,
        cwd=place.folder,
        env={**place.environment(), "ORCHESTRATOR_REDIS_URL": "redis://127.0.0.1:1/0"},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
    assert not (place.folder / ".orchestrator").exists()
