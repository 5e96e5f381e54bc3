"""A step of a past run is run again at the desk: with what it was given, with a terminal, without a
trace in the record."""

from __future__ import annotations

import os
import pickle
import pty
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.place import Place
from tests.support.terminal import read_to_the_end

FAULTY = """
    from orchestrator import Secret, context

    @step
    def load(n: int, token):
        return {"numbers": list(range(n)), "length": len(token)}

    @step(retries=1, retry_delay=0)
    def divide(data, by):
        (context.checkpoint_dir / f"attempt-{context.attempt}").write_text("kept")
        breakpoint()
        print("dividing by", by)
        return [number / (number - by) for number in data["numbers"]]

    @step
    def total(quotients):
        return sum(quotients)

    @pipeline
    def faulty(token: Secret[str], n: int = 5):
        total(divide(load(n, token), 3))
"""
SHELL = """
    params: {word: {type: str, default: first}}
    steps:
      say: {run: "echo said ${{ params.word }}"}
"""


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory, place_in: Callable[..., Place]) -> Place:
    place = place_in(tmp_path_factory.mktemp("desk") / "place")
    assert place.call("run", place.write("faulty.py", FAULTY), "-p", "token=sesame").code == 1
    return place


def record(place: Place) -> object:
    return place.call("show", "last", "--json").json, place.call("events", "last", "--json").json


def test_breakpoint_under_run_says_where_it_works_and_goes_on(failed: Place) -> None:
    lines = failed.call("logs", "last", "divide", "--attempt", "1").out.splitlines()

    run_id = failed.call("runs", "--json").json[0]["run_id"]
    assert f"In yours it works: orchestrator step {run_id} divide" in lines[0]
    assert lines[1].endswith("dividing by 3")


def test_a_failing_step_fails_at_the_desk_as_it_did_and_the_mended_one_succeeds(
    failed: Place,
) -> None:
    before = record(failed)
    with_breakpoint = failed.variables
    failed.variables = {**with_breakpoint, "PYTHONBREAKPOINT": "0"}

    again = failed.call("step", "last", "divide")
    assert again.code == 1
    assert "step divide of run " in again.err
    assert ", as attempt 2 was called\n" in again.err
    assert "changed since then" not in again.err
    frames = [line for line in again.err.splitlines() if line.startswith("  File ")]
    assert all("faulty.py" in frame for frame in frames)
    assert "ZeroDivisionError: division by zero" in again.err
    assert again.out == "dividing by 3\n"

    code = (failed.folder / "faulty.py").read_text()
    (failed.folder / "faulty.py").write_text(code.replace("number - by)", "number - by + 0.5)"))
    mended = failed.call("step", "last", "divide", "--attempt", "1")
    assert mended.code == 0
    assert "as attempt 1 was called\nchanged since then: faulty.py\n" in mended.err
    assert (
        mended.out.splitlines()[1] == "[-0.0, -0.6666666666666666, -4.0, 6.0, 2.6666666666666665]"
    )
    output = Path(mended.err.splitlines()[-1].partition(": ")[2])
    assert pickle.loads(output.read_bytes())[2] == -4.0
    assert (output.parent / "checkpoints" / "attempt-1").exists()
    assert failed.folder / ".orchestrator" / "desk" in output.parents

    failed.variables = with_breakpoint
    assert record(failed) == before


def test_pdb_has_the_terminal(failed: Place) -> None:
    ours, theirs = pty.openpty()
    command = [failed.command, "step", "last", "divide"]
    process = subprocess.Popen(
        command,
        cwd=failed.folder,
        env=failed.environment(),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    os.write(ours, b"p 'by is', by\nc\n")
    shown = read_to_the_end(ours, within_s=60)
    os.close(ours)

    assert process.wait(60) in (0, 1)
    assert "('by is', 3)" in shown


def test_what_is_gone_with_the_run_is_asked_for(failed: Place) -> None:
    refused = failed.call("step", "last", "load")
    assert refused.code == 2
    assert "the secret params of run " in refused.err
    assert refused.err.endswith("are gone with its end. Give -p token=@FILE\n")

    given = failed.call("step", "last", "load", "-p", "token=123456")
    assert given.out == '{"numbers": [0, 1, 2, 3, 4], "length": 6}\n'


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("last", "divde"), "has no step 'divde'. Did you mean 'divide'?"),
        (("last", "divide", "--attempt", "7"), "has no attempt 7 that began, only 1, 2"),
        (("last", "divide", "-p", "n=3"), "does not read param 'n' by reference"),
        (("last", "total"), "did not run in run "),
        (("nothing", "total"), "there is no run 'nothing'"),
    ],
)
def test_what_cannot_be_run_is_refused(
    failed: Place, arguments: tuple[str, ...], told: str
) -> None:
    refused = failed.call("step", *arguments)

    assert (refused.code, refused.out) == (2, "")
    assert told in refused.err


def test_an_input_that_is_gone_is_named(place: Place) -> None:
    source = """
        @step
        def make():
            return list(range(30_000))

        @step
        def use(numbers):
            return len(numbers)

        @pipeline
        def large():
            use(make())
    """
    place.call("run", place.write("large.py", source))
    (artifact,) = (place.folder / ".orchestrator" / "artifacts").glob("*/make*")
    artifact.unlink()

    refused = place.call("step", "last", "use")

    assert refused.code == 2
    assert "StepNotRunnable: what step 'use' reads cannot be loaded: ArtifactMissing" in refused.err
    assert "Traceback" not in refused.err


def test_a_command_runs_too_and_may_get_another_param(place: Place) -> None:
    place.call("run", place.write("said.yaml", SHELL))

    assert place.call("step", "last", "say").out == "said first\n"
    assert place.call("step", "last", "say", "-p", "word=second").out == "said second\n"
