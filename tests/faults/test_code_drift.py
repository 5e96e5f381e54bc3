"""A run whose files change under it: its record says so, and a file that is broken for a moment
fails no step."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.definition.code import code_of
from orchestrator.record.run import drift_text, read_record
from orchestrator.record.verification import verify_run
from orchestrator.runs.reasons import explain
from orchestrator.runs.surroundings import look_around
from orchestrator.worker.child.half_copied import LOOK_S
from tests.support.fixtures import WaitUntil
from tests.support.site.run import Run
from tests.support.site.site import NewSite, Site

HOLDING = """
    def hold():
        note("holds")
        wait_for("go")

    def work():
        import part{suffix}
        return part{suffix}.NUMBER

    holding = PipelineBuilder("holding")
    holding.add("hold", hold)
    holding.add("work", work, needs=["hold"]{options})
    holding.add("shell", run="cat {folder}/part{suffix}.py", needs=["hold"])
"""
_numbers = iter(range(1000))


class Parts:
    """A module that a step imports, and runs that wait before that step."""

    def __init__(self, site: Site) -> None:
        self.site, self.suffix = site, f"_{site.mark.replace('-', '_')}_{next(_numbers)}"
        self.name = f"part{self.suffix}.py"

    def hold(self, text: str = "NUMBER = 1\n", options: str = "") -> tuple[Run, Path]:
        """Return a run that waits, and the file that its next step will import."""
        site = self.site
        folder = site.folder / f"run-{site._folders + 1}"
        folder.mkdir()
        (folder / self.name).write_text(text)
        source = HOLDING.format(suffix=self.suffix, options=options, folder=folder)
        mkdir = Path.mkdir
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                Path,
                "mkdir",
                lambda path, *a, **k: None if path == folder else mkdir(path, *a, **k),
            )
            run = site.submit(source)
        run.wait_for_note("holds")
        return run, folder / self.name


@pytest.fixture
def parts(shared: Site) -> Parts:
    return Parts(shared)


def code_of_attempt(run: Run, step: str, number: int = -1) -> Mapping[str, Any] | None:
    return read_record(run.ledger, run.run_id).steps[step].attempts[number].code


def test_code_that_did_not_change_is_recorded_once_and_named_by_each_attempt(parts: Parts) -> None:
    run, _ = parts.hold()
    run.note("go")

    record = run.ended()
    fields = run.ledger.run_fields(run.run_id)
    submitted = code_of(run.pipeline)
    assert parts.name in submitted  # though only a statement inside a function imports it
    for step in ("hold", "work"):
        (attempt,) = record.steps[step].attempts
        ran = json.loads(fields[f"code:{attempt.code['id']}"])
        assert ran.items() <= submitted.items()
        assert (parts.name in ran) == (step == "work") or step == "hold"
        assert "differs" not in attempt.code
    assert record.steps["shell"].attempts[0].code is None
    assert verify_run(run.ledger, run.run_id).remarks == ()


def test_a_step_that_runs_other_code_than_was_submitted_says_so(parts: Parts) -> None:
    run, file = parts.hold()
    file.write_text("NUMBER = 2\n")  # of the same size, within the same second
    run.note("go")

    record = run.ended()
    assert parts.site.value(record, "work") == 2
    code = record.steps["work"].attempts[0].code
    assert list(code["differs"]) == [parts.name]
    submitted, ran = code["differs"][parts.name]
    assert submitted != ran
    assert drift_text(code) == record.steps["work"].drift
    assert parts.name in record.steps["work"].drift
    assert code["host"] in record.steps["work"].drift
    verification = verify_run(run.ledger, run.run_id)
    assert verification.violations == ()
    assert [parts.name in remark for remark in verification.remarks] == [True]


@pytest.mark.parametrize("policy", ["allow", "refuse"])
def test_the_setting_decides_what_becomes_of_it(
    new_site: NewSite, policy: str, wait_until: WaitUntil
) -> None:
    site = new_site(code_drift=policy)
    site.at_work(slots=1)
    parts = Parts(site)
    run, file = parts.hold("NUMBER = 1\n", ", retries=0, lost_attempts=1")
    if policy == "refuse":
        # what is imported before the step begins is refused; that it imports later is reported
        own = file.parent / f"{run.pipeline.steps['work'].call.uses.partition(':')[0]}.py"
        own.write_text(own.read_text() + "\n# changed\n")
    file.write_text("NUMBER = 2\n")
    run.note("go")
    if policy == "allow":
        assert site.value(run.ended(), "work") == 2
        assert "differs" not in code_of_attempt(run, "work")
        return

    wait_until(lambda: run.events("attempt.put_back", "work"))
    (event,) = run.events("attempt.put_back", "work")
    assert event.fields["host"] in event.fields["reason"]
    assert f"{run.pipeline.steps['work'].call.uses.partition(':')[0]}.py" in event.fields["reason"]
    assert round((event.fields["due_at"] - event.at_us) / 1e6) == 10
    assert run.state("work") == "retrying"
    around = look_around(run.ledger, run.run_id)
    told = explain(run.ledger, site.settings, read_record(run.ledger, run.run_id), "work", around)
    assert event.fields["reason"] in " ".join(told.sentences)
    run.ledger.cancel(run.run_id, "its test is over")
    run.ended()


def test_a_resume_takes_the_changed_files_as_submitted(shared: Site) -> None:
    parts = Parts(shared)
    run, file = parts.hold("raise ValueError('broken as it was submitted')\n")
    run.note("go")
    assert run.ended().steps["work"].state == "failed"
    file.write_text("NUMBER = 7\n")

    run.resume()

    record = run.ended()
    assert shared.value(record, "work") == 7
    assert "differs" not in record.steps["work"].attempts[-1].code


BROKEN_FOR_A_MOMENT = {
    "cut off": lambda file, text: file.write_text(text[: len(text) // 2]),
    "empty": lambda file, text: file.write_text(""),
    "gone": lambda file, text: file.unlink(),
    "no Python": lambda file, text: file.write_text("def work(:\n"),
    "NUL bytes": lambda file, text: file.write_bytes(bytes(100)),
}


@pytest.mark.parametrize("how", BROKEN_FOR_A_MOMENT)
def test_a_file_that_is_broken_for_a_moment_fails_no_step(
    new_site: NewSite, how: str, wait_until: WaitUntil
) -> None:
    site = new_site()
    site.at_work(slots=1)
    other = site.submit("""
        def block():
            note("blocks")
            wait_for("go")

        blocking = PipelineBuilder("blocking")
        blocking.add("block", block)
    """)
    other.wait_for_note("blocks")
    run = site.submit("""
        def work():
            return 5

        short = PipelineBuilder("short")
        short.add("work", work, retries=0)
    """)
    (file,) = run.folder.glob("steps_*.py")
    text = file.read_text()
    BROKEN_FOR_A_MOMENT[how](file, text)
    other.note("go")
    run.wait_for("work", "running")

    file.write_text(text)

    record = run.ended()
    assert record.state == "succeeded", run.story()
    assert len(record.steps["work"].attempts) == 1


LATE = """
    import os

    def work():
        note("begun")
        wait_for("go")
        from package.inner import NUMBER
        return NUMBER

    late = PipelineBuilder("late")
    late.add("work", work, retries=0)
"""


class Late:
    """A run whose step has begun, and is about to import a module of a package."""

    def __init__(self, site: Site) -> None:
        self.folder = site.folder / f"run-{site._folders + 1}"
        (self.folder / "package").mkdir(parents=True)
        self.text = "NUMBER = 1\nNUMBER += 4\n"
        self.file = self.folder / "package" / "inner.py"
        self.init = self.folder / "package" / "__init__.py"
        self.file.write_text(self.text)
        self.init.write_text("")
        mkdir = Path.mkdir
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                Path,
                "mkdir",
                lambda path, *a, **k: None if path == self.folder else mkdir(path, *a, **k),
            )
            self.run = site.submit(LATE)
        self.run.wait_for_note("begun")


BROKEN_LATE = {
    **BROKEN_FOR_A_MOMENT,
    "valid but cut off": lambda file, text: file.write_text(text[: len(text) // 2 + 1]),
    "no __init__": lambda file, text: file.with_name("__init__.py").unlink(),
    "no folder": lambda file, text: file.parent.rename(file.parent.with_name("away")),
}


@pytest.mark.parametrize("how", BROKEN_LATE)
def test_what_a_running_step_imports_is_waited_for(shared: Site, how: str) -> None:
    late = Late(shared)
    BROKEN_LATE[how](late.file, late.text)
    late.run.note("go")
    threading.Event().wait(0.3)  # no matter whether it is importing by now

    if how == "no folder":
        late.file.parent.with_name("away").rename(late.file.parent)
    else:
        late.file.write_text(late.text)
        late.init.write_text("")

    record = late.run.ended()
    assert record.state == "succeeded", late.run.story()
    assert shared.value(record, "work") == 5
    assert len(record.steps["work"].attempts) == 1


def test_what_a_running_step_imports_and_never_comes_fails_it_and_is_named(shared: Site) -> None:
    late = Late(shared)
    late.file.unlink()
    late.run.note("go")

    record = late.run.ended()
    (attempt,) = record.steps["work"].attempts
    assert attempt.error.type == "ModuleNotFoundError"
    assert f"lacks {Path('package', 'inner.py')} in {late.folder}" in attempt.error.message


def test_another_version_that_is_whole_is_imported_while_the_step_runs(shared: Site) -> None:
    late = Late(shared)
    late.file.write_text("NUMBER = 7\n")
    late.run.note("go")

    record = late.run.ended()
    assert (record.state, shared.value(record, "work")) == ("succeeded", 7)
    assert str(Path("package", "inner.py")) in record.steps["work"].attempts[0].code["differs"]


def test_an_optional_module_that_was_never_submitted_is_not_waited_for(shared: Site) -> None:
    run = shared.submit("""
        import time

        def work():
            began = time.monotonic()
            for number in range(1000):
                try:
                    __import__(f"no_such_module_{number}")
                except ImportError:
                    pass
            return time.monotonic() - began

        optional = PipelineBuilder("optional")
        optional.add("work", work)
    """)

    record = run.ended()
    assert record.state == "succeeded"
    assert shared.value(record, "work") < 1000 * LOOK_S  # it has not slept once for each


def test_a_missing_file_is_named_and_not_taken_for_a_library(new_site: NewSite) -> None:
    site = new_site()
    site.coordinate()
    run = site.submit("""
        def work():
            return 5

        short = PipelineBuilder("short")
        short.add("work", work, retries=0)
    """)
    (file,) = run.folder.glob("steps_*.py")
    file.unlink()
    site.add_worker(slots=1)

    (attempt,) = run.ended().steps["work"].attempts
    assert f"lacks {file.name} in {run.folder}" in attempt.error.message
    assert "environment" not in attempt.error.message


@pytest.mark.parametrize("how", ["cut off", "gone", "no Python"])
def test_a_file_that_stays_broken_fails_its_step_with_its_own_error(
    new_site: NewSite, how: str
) -> None:
    site = new_site()
    site.coordinate()
    run = site.submit("""
        def work():
            return 5

        short = PipelineBuilder("short")
        short.add("work", work, retries=0)
    """)
    (file,) = run.folder.glob("steps_*.py")
    BROKEN_FOR_A_MOMENT[how](file, file.read_text())
    site.add_worker(slots=1)

    record = run.ended()
    (attempt,) = record.steps["work"].attempts
    assert attempt.outcome == "failed"
    kind = attempt.error.type.rpartition(":")[2]
    assert kind in (
        "SyntaxError",
        "FunctionNotFound",
        "ModuleNotFoundError",
        "IndentationError",
        "NameError",
    ), kind


def test_what_is_broken_as_it_was_submitted_is_not_waited_for(shared: Site) -> None:
    run = shared.submit("""
        def work():
            raise ImportError("no such thing")

        def missing():
            import no_such_module_anywhere

        wrong = PipelineBuilder("wrong")
        wrong.add("work", work)
        wrong.add("missing", missing)
    """)

    record = run.ended()
    assert {step.attempts[0].error.type for step in record.steps.values()} == {
        "ImportError",
        "ModuleNotFoundError",
    }
