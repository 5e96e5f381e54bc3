"""A run that ended goes on in its own record: after a failure, a cancel, a killed command, and with
mended code."""

from __future__ import annotations

import pytest

from tests.support.resume_places import ran

BROKEN = """
    import pathlib

    def note(step):
        with pathlib.Path("ran").open("a") as file:
            file.write(step + "\\n")

    @step
    def load(rows: int):
        note("load")
        return list(range(rows))

    @step
    def train(rows):
        note("train")
        return len(rows) / 0

    @step
    def check(rows):
        note("check")
        return sum(rows)

    @step
    def report(size, total):
        note("report")
        return [size, total]

    @pipeline
    def learn(rows: int = 3):
        loaded = load(rows)
        report(train(loaded), check(loaded))
"""


MENDED = BROKEN.replace("len(rows) / 0", "len(rows)")


def attempts(record):
    return {name: len(step["attempts"]) for name, step in record["steps"].items()}


@pytest.fixture(scope="module")
def mended(tmp_path_factory, place_in):
    """A run that failed, whose code was mended, and that was resumed; with all that was said."""
    place = place_in(tmp_path_factory.mktemp("mended"))
    file = place.write("learn.py", BROKEN)
    failed = place.call("run", file, "--json")
    before = ran(place)
    place.write(file, MENDED)
    resumed = place.call("resume", "last", "--json")
    return place, failed, before, resumed


def test_a_failed_run_ends_with_the_command_that_lets_it_go_on(mended) -> None:
    _, failed, before, _ = mended

    assert failed.code == 1
    assert before == {"load": 1, "train": 1, "check": 1}
    assert failed.err.splitlines()[-1] == f"go on with: orchestrator resume {failed.json['run_id']}"


def test_a_resume_keeps_what_succeeded_and_runs_the_mended_code(mended) -> None:
    place, failed, _, resumed = mended

    assert (resumed.code, ran(place)) == (0, {"train": 1, "report": 1})
    record = resumed.json
    assert record["run_id"] == failed.json["run_id"]
    assert (record["state"], record["resumes"]) == ("succeeded", 1)
    assert attempts(record) == {"load": 1, "train": 2, "check": 1, "report": 1}
    assert [it["outcome"] for it in record["steps"]["train"]["attempts"]] == ["failed", "succeeded"]
    assert record["steps"]["report"]["output"] == [3, 3]
    assert len(place.call("runs", "--json").json) == 1


def test_the_change_of_code_is_told_and_stands_in_the_record(mended) -> None:
    place, _, _, resumed = mended

    assert "changed since the run was last started: learn.py" in resumed.err
    told = {
        event["event"]: event.get("detail") for event in place.call("events", "last", "--json").json
    }
    assert told["run.code_changed"] == {"changed": ["learn.py"]}
    assert told["run.resumed"]["code_changed"] == ["learn.py"]


def test_from_runs_a_step_and_all_below_it_again_and_tells_what_it_keeps_of_old(place) -> None:
    file = place.write("learn.py", BROKEN)
    assert place.call("run", file).code == 1
    place.write(file, MENDED)
    ran(place)

    done = place.call("resume", "last", "--from", "check", "-p", "rows=5", "--json")

    assert done.code == 0
    assert ran(place) == {"train": 1, "check": 1, "report": 1}
    assert "step load succeeded with other arguments; --from load runs it again" in done.err
    assert done.json["params"] == {"rows": 5}
    assert done.json["steps"]["report"]["output"] == [3, 3]
    assert done.json["steps"]["load"]["arguments"]["args"] == [3]
    assert done.json["steps"]["load"]["params"] == {"rows": 3}
    assert done.json["steps"]["load"]["other_arguments"] == {"args[0]": {"was": 3, "now": 5}}
    shown = {line.split()[0]: line for line in place.call("show", "last").out.splitlines()}
    assert shown["load"].endswith("ran with other arguments: args[0] was 3, now 5")
    assert shown["check"].split()[-1].startswith("local-")  # no more is said of it


def test_from_the_first_step_runs_all_of_it_again_with_the_new_param(place) -> None:
    file = place.write("learn.py", BROKEN)
    assert place.call("run", file).code == 1
    assert place.call("resume", "last").code == 1
    place.write(file, MENDED)

    again = place.call("resume", "last", "--from", "load", "-p", "rows=5")

    assert again.code == 0
    assert "resumed: 4 steps wait anew, 2 of which had succeeded" in again.out
    assert "succeeded with other arguments" not in again.err
    assert "after it was resumed for the 2nd time: 4 succeeded" in again.out
    assert "report gave [5, 10]" in again.out


def test_a_resume_that_makes_no_sense_is_refused(mended, place) -> None:
    made, *_ = mended
    for arguments, told in (
        (
            ["resume", "last"],
            "has succeeded, and stays as it is. A new run can take over what it has computed",
        ),
        (["resume", "last", "--from", "load"], "--from load"),
        (["resume", "none"], "there is no run 'none'"),
        (
            ["resume", "last", "--detach"],
            "--detach leaves the run to a server's workers, and there is none",
        ),
    ):
        done = made.call(*arguments)
        assert done.code == 2, arguments
        assert told in done.err
        assert "Traceback" not in done.err


DECIDING = """
    params: {gate: closed}
    steps:
      gate: {run: "echo gate >> ran; test ${{ params.gate }} = open"}
      page: {run: "echo page >> ran", needs: gate, trigger: one_failed}
      told: {run: "echo told >> ran", needs: page}
      work: {run: "echo work >> ran; test -e good", needs: gate}
      cleanup: {run: "echo cleanup >> ran", needs: work, trigger: always}
      beside: {run: "echo beside >> ran"}
"""


def test_what_a_failure_or_an_end_had_decided_is_decided_anew_when_the_run_goes_on(place) -> None:
    file = place.write("deciding.yaml", DECIDING)
    assert place.call("run", file).code == 1
    assert ran(place) == {"gate": 1, "page": 1, "told": 1, "cleanup": 1, "beside": 1}

    failed_again = place.call("resume", "last")
    assert failed_again.code == 1
    assert ran(place) == {"gate": 1, "page": 1, "told": 1, "cleanup": 1}
    assert (
        "succeeded, but are decided anew with what is above them: page, told, cleanup"
        in failed_again.err
    )

    passes = place.call("resume", "last", "-p", "gate=open", "--json")
    assert (passes.code, ran(place)) == (1, {"gate": 1, "work": 1, "cleanup": 1})
    assert {
        name: passes.json["steps"][name]["state"] for name in ("page", "told")
    } == dict.fromkeys(("page", "told"), "skipped")

    (place.folder / "good").touch()
    done = place.call("resume", "last", "--json")
    assert (done.code, ran(place)) == (0, {"work": 1, "cleanup": 1})
    assert attempts(done.json) == {
        "gate": 3,
        "page": 2,
        "told": 2,
        "work": 2,
        "cleanup": 4,
        "beside": 1,
    }
    assert place.call("verify", "last").code == 0


CONVERTING = """
    from datetime import date
    from pathlib import Path
    from typing import Annotated
    from pydantic import AfterValidator

    @step
    def show(x: int, day: str):
        if not Path("good").exists():
            raise ValueError(f"x was {x} on {day}")
        return [x, day]

    @pipeline
    def twice(x: Annotated[int, AfterValidator(lambda v: v * 100)] = 1, day: date = "2026-01-02"):
        show(x, f"{day:%d.%m.}")
"""


def test_a_param_that_is_converted_is_converted_once_however_often_the_run_goes_on(place) -> None:
    file = place.write("twice.py", CONVERTING)
    failed = place.call("run", file, "-p", "x=3", "--json")
    again = place.call("resume", "last", "--json")
    (place.folder / "good").touch()
    done = place.call("resume", "last", "--json")

    assert "x was 300 on 02.01." in failed.json["steps"]["show"]["attempts"][0]["error"]["message"]
    assert [it.json["params"] for it in (failed, again, done)] == [
        {"x": 300, "day": "2026-01-02"}
    ] * 3
    assert "changed" not in again.out + again.err + done.out + done.err
    assert done.json["steps"]["show"]["output"] == [300, "02.01."]


FIRST = """
    params: {word: none}
    steps:
      a: {run: "echo a >> ran; echo ${{ params.word }}"}
      old: {run: "echo old >> ran", needs: a}
      b: {run: "echo b >> ran; false", needs: [a, old]}
      c: {run: "echo c >> ran; echo ${{ params.word }} ${{ steps.b.output }}"}
"""


SECOND = """
    params: {word: none}
    steps:
      a: {run: "echo a >> ran; echo ${{ params.word }}"}
      new: {run: "echo new >> ran; echo added", needs: a}
      b: {run: "echo b >> ran; echo ${{ steps.new.output }}", needs: a}
      c: {run: "echo c >> ran; echo ${{ params.word }} ${{ steps.b.output }}"}
"""


def test_steps_and_options_of_a_file_that_was_changed_take_effect(place, place_in) -> None:
    place.variables["ORCHESTRATOR_DATA_DIR"] = str(place.folder / "data")
    elsewhere = place_in(place.folder / "elsewhere", place.variables)
    assert place.call("run", place.write("words.yaml", FIRST)).code == 1
    assert ran(place) == {"a": 1, "old": 1, "b": 1}

    place.write("words.yaml", SECOND)
    # the file is found from any folder
    done = elsewhere.call("resume", "last", "-p", "word=said", "--json")

    assert done.code == 0, done.err
    assert ran(elsewhere) == {"new": 1, "b": 1, "c": 1}
    assert "new in the pipeline: new" in done.err
    assert "no longer in the pipeline: old" in done.err
    assert "step a succeeded with other arguments" in done.err
    assert list(done.json["steps"]) == ["a", "new", "b", "c"]
    assert done.json["steps"]["c"]["output"] == "said added"


def test_without_its_file_a_run_goes_on_as_it_was_recorded(place) -> None:
    python = place.call(
        "run", place.write("learn.py", MENDED.replace("sum(rows)", "wait(rows)")), "--json"
    )
    yaml = place.call(
        "run", place.write("words.yaml", FIRST.replace("; false", "; test -e good")), "--json"
    )
    assert (python.code, yaml.code) == (1, 1)
    (place.folder / "words.yaml").unlink()
    (place.folder / "good").touch()
    ran(place)

    done = place.call("resume", yaml.json["run_id"], "-p", "word=said", "--json")

    assert done.code == 0, done.err
    assert "words.yaml any more: the steps are run as they were recorded" in done.err
    assert ran(place) == {"b": 1, "c": 1}
    assert done.json["steps"]["c"]["output"] == "said null"

    (place.folder / "learn.py").rename(place.folder / "other.py")
    refused = place.call("resume", python.json["run_id"], "-p", "rows=5")
    assert refused.code == 2
    assert "param 'rows' cannot be changed: there is no" in refused.err
    assert "Bring the pipeline back, or leave -p out." in refused.err
    for arguments, told in (
        (["--from", "lod"], "has no step 'lod'. Did you mean 'load'?"),
        (["-p", "row=5"], "there is no param 'row'"),
    ):
        refused = place.call("resume", python.json["run_id"], *arguments)
        assert (refused.code, told in refused.err, "Traceback" in refused.err) == (2, True, False)
