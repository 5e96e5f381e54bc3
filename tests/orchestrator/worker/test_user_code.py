"""The user's modules in a worker that lives long: the run's own, and as they are now."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.definition.loading import load
from orchestrator.definition.pipeline import FunctionCall, Pipeline, Step
from tests.support.worker_runs import OwnWorker, Runs

USES = "same_name:answer"


@pytest.fixture
def one_slot(own_worker: OwnWorker) -> Iterator[Runs]:
    """Runs on a worker with one child, so that every step meets what the one before has
    imported."""
    with own_worker(1) as runs:
        yield runs


@pytest.fixture
def answer_of(one_slot: Runs) -> Callable[[Path], Any]:
    """Return the output of `same_name:answer`, imported from a folder."""

    def answer(folder: Path) -> Any:
        steps = {"answer": Step("answer", FunctionCall(USES))}
        record = one_slot.run(Pipeline("p", steps, import_path=str(folder)))
        error = record.steps["answer"].attempts[-1].error
        assert error is None, error
        return one_slot.value(record, "answer")

    return answer


def test_modules_of_one_name_in_two_folders_are_kept_apart(
    answer_of: Callable[[Path], Any], tmp_path: Path
) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "part.py").write_text(f"PLACE = {folder!r}\n")
        (tmp_path / folder / "same_name.py").write_text(
            "import part\n\ndef answer():\n    return part.PLACE\n"
        )

    assert [answer_of(tmp_path / folder) for folder in "abba"] == ["a", "b", "b", "a"]


def test_packages_of_one_name_without_an_init_file_are_kept_apart(
    answer_of: Callable[[Path], Any], tmp_path: Path
) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder / "parts" / "deep").mkdir(parents=True)
        (tmp_path / folder / "parts" / "deep" / "part.py").write_text(f"PLACE = {folder!r}\n")
        (tmp_path / folder / "same_name.py").write_text(
            "def answer():\n    from parts.deep import part\n\n    return part.PLACE\n"
        )

    assert [answer_of(tmp_path / folder) for folder in "abba"] == ["a", "b", "b", "a"]


def test_a_file_that_has_changed_is_imported_anew(
    answer_of: Callable[[Path], Any], tmp_path: Path
) -> None:
    (tmp_path / "part.py").write_text("NUMBER = 1\n")
    (tmp_path / "same_name.py").write_text(
        "def answer():\n    import part\n\n    return part.NUMBER\n"
    )
    before = answer_of(tmp_path)

    (tmp_path / "part.py").write_text("NUMBER = 22\n")
    after_part = answer_of(tmp_path)
    (tmp_path / "same_name.py").write_text("def answer():\n    return 'new'\n")

    assert (before, after_part, answer_of(tmp_path)) == (1, 22, "new")


def test_a_module_stays_loaded_while_nothing_changes(
    answer_of: Callable[[Path], Any], tmp_path: Path
) -> None:
    (tmp_path / "same_name.py").write_text(
        "calls = []\n\ndef answer():\n    calls.append(1)\n    return len(calls)\n"
    )

    assert [answer_of(tmp_path) for _ in range(3)] == [1, 2, 3]


def test_an_attempt_records_the_files_of_its_own_run_alone(
    one_slot: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three pipelines in one folder share a module; what they import in their steps, by name or
    not, is their own."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "shared.py").write_text("NUMBER = 1\n")
    for name in ("one", "two"):
        (tmp_path / f"part_{name}.py").write_text("NUMBER = 2\n")
        (tmp_path / f"late_{name}.py").write_text("NUMBER = 3\n")
        (tmp_path / f"pipeline_{name}.py").write_text(
            textwrap.dedent(f"""
                import importlib
                import shared
                from orchestrator import PipelineBuilder

                def work():
                    import part_{name}
                    return importlib.import_module("late_{name}").NUMBER + part_{name}.NUMBER + shared.NUMBER

                def look():
                    return shared.NUMBER

                {name} = PipelineBuilder("{name}")
                {name}.add("work", work)
                {name}.add("look", look, needs="work")
            """)
        )

    ran = []
    for name in ("one", "two", "one", "two"):
        for module in [it for it in sys.modules if it.startswith("pipeline_")]:
            monkeypatch.delitem(sys.modules, module)  # as in a command, which loads one of them
        record = one_slot.run(load(str(tmp_path / f"pipeline_{name}.py")).build())
        assert one_slot.value(record, "work") == 6
        fields = one_slot.ledger.run_fields(record.run_id)
        for step in ("work", "look"):
            (attempt,) = record.steps[step].attempts
            assert "differs" not in attempt.code
            ran.append(set(json.loads(fields[f"code:{attempt.code['id']}"])))

    own = {
        name: {"shared.py", f"pipeline_{name}.py", f"part_{name}.py", f"late_{name}.py"}
        for name in ("one", "two")
    }
    assert ran == [own[name] for name in ("one", "two", "one", "two") for _ in range(2)]
