"""The folder that steps run in: the worker's, whatever the step before did."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

import pytest

from tests.support.fixtures import PipelineFrom
from tests.support.worker_runs import OwnWorker

STRAYING = """
    import os, tempfile

    @step
    def stray():
        os.chdir("/")

    @step
    def stray_where_nothing_stays():
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)

    @step
    def look():
        return os.getcwd()

    @pipeline
    def straying():
        first = look.options(name="first")()
        second = look.options(name="second").after(stray.after(first)())()
        look.options(name="third").after(stray_where_nothing_stays.after(second)())()
"""


def test_a_step_that_changes_its_folder_does_not_move_the_next(
    own_worker: OwnWorker, pipeline_from: PipelineFrom
) -> None:
    with own_worker() as runs:
        record = runs.run(pipeline_from(STRAYING))

        assert [runs.value(record, step) for step in ("first", "second", "third")] == [
            os.getcwd()
        ] * 3


def test_the_folder_that_a_module_chooses_when_it_is_imported_stays(
    own_worker: OwnWorker,
    pipeline_from: PipelineFrom,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with own_worker() as runs:
        monkeypatch.chdir(tmp_path)  # the module changes it here, too
        record = runs.run(
            pipeline_from(
                "import os\nos.chdir(os.path.dirname(__file__))\n" + textwrap.dedent(STRAYING)
            )
        )

        assert [runs.value(record, step) for step in ("first", "second", "third")] == [
            str(tmp_path)
        ] * 3
