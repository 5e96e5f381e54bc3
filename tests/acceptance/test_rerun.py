"""A new run takes over what another one has computed, and leaves that one as it was."""

from __future__ import annotations

import shutil
from collections import Counter

import pytest

LEARN = """
    import pathlib

    def note(step):
        with pathlib.Path("ran").open("a") as file:
            file.write(step + "\\n")

    @step
    def load(rows: int):
        note("load")
        return list(range(rows))

    @step
    def features(rows):
        note("features")
        print("features of", len(rows))
        return {row: "x" * 2000 for row in rows}

    @step
    def check(rows, limit: int):
        note("check")
        return len(rows) < limit

    @step
    def train(features, is_fine):
        note("train")
        return [len(features), is_fine]

    @pipeline
    def learn(rows: int = 4, limit: int = 9):
        loaded = load(rows)
        train(features(loaded), check(loaded, limit))
"""
BROKEN = LEARN.replace(
    'return {row: "x" * 2000 for row in rows}', "raise ValueError('a bug in the edit')"
)


def ran(place):
    """Return how often each step ran since the last look."""
    path = place.folder / "ran"
    words = path.read_text().split() if path.exists() else []
    path.write_text("")
    return Counter(words)


def reused(record):
    return {
        name: step["reused"]["run"] for name, step in record["steps"].items() if "reused" in step
    }


def shown(place, run_id):
    """All that is told of a run."""
    return place.call("show", run_id, "--json").json, place.call("events", run_id, "--json").json


@pytest.fixture(scope="module")
def good(tmp_path_factory, place_in):
    """A place with a run that succeeded, and its record."""
    place = place_in(tmp_path_factory.mktemp("good"))
    file = place.write("learn.py", LEARN)
    done = place.call("run", file, "--json")
    assert (done.code, ran(place)) == (0, {"load": 1, "features": 1, "check": 1, "train": 1})
    return place, file, done.json


@pytest.fixture(autouse=True)
def _as_it_was(good):
    """Whatever a test does, the good run stays as it was."""
    place, file, record = good
    place.write(file, LEARN)
    before = shown(place, record["run_id"])
    yield
    ran(place)
    assert shown(place, record["run_id"]) == before


def test_a_bug_in_an_edit_spoils_no_good_run(good) -> None:
    place, file, record = good
    run_id = record["run_id"]
    place.write(file, BROKEN)

    for arguments in (["resume", run_id, "--from", "features"], ["resume", run_id]):
        refused = place.call(*arguments)
        assert refused.code == 2
        assert f"orchestrator rerun {run_id} --from " in refused.err
    failed = place.call("rerun", run_id, "--from", "features", "--json")

    assert (failed.code, ran(place)) == (1, {"features": 1})
    assert reused(failed.json) == {"load": run_id, "check": run_id}
    assert (failed.json["rerun_of"], failed.json["state"]) == (run_id, "failed")
    assert f"changed since run {run_id} was last started: learn.py" in failed.err

    place.write(file, LEARN)
    mended = place.call("resume", failed.json["run_id"], "--json")
    assert (mended.code, ran(place)) == (0, {"features": 1, "train": 1})
    assert mended.json["steps"]["train"]["output"] == [4, True]
    assert {name: len(step["attempts"]) for name, step in mended.json["steps"].items()} == {
        "load": 0, "features": 2, "check": 0, "train": 1
    }  # fmt: skip
    assert place.call("verify", "last").code == 0


def test_another_param_runs_what_reads_it_and_all_below(good) -> None:
    place, _, record = good

    done = place.call("rerun", record["run_id"], "-p", "limit=2", "--json")

    assert (done.code, ran(place)) == (0, {"check": 1, "train": 1})
    assert done.json["steps"]["train"]["output"] == [4, False]
    assert (record["params"], done.json["params"]) == (
        {"rows": 4, "limit": 9},
        {"rows": 4, "limit": 2},
    )
    # by reference
    assert done.json["steps"]["features"]["output"] == record["steps"]["features"]["output"]
    taken = done.json["steps"]["load"]
    assert (taken["state"], taken["output"], taken["attempts"]) == ("succeeded", [0, 1, 2, 3], [])
    assert taken["reused"] == {"run": record["run_id"], "attempt": 1}


def test_every_command_knows_a_step_that_was_taken_over(good) -> None:
    place, _, record = good
    run_id = record["run_id"]
    done = place.call("rerun", run_id, "--from", "train")
    assert (done.code, ran(place)) == (0, {"train": 1})
    assert f"features taken over from run {run_id}" in done.out
    assert f"4 succeeded (3 taken over from run {run_id})" in done.out

    (row,) = [
        line for line in place.call("show", "last").out.splitlines() if line.startswith("features ")
    ]
    assert row.split(maxsplit=3) == [
        "features",
        "succeeded",
        "0",
        f"taken over from attempt 1 of run {run_id}",
    ]
    assert (
        place.call("why", "last", "load").out
        == f"load was taken over: attempt 1 of run {run_id} has computed its output.\n"
    )
    logs = place.call("logs", "last", "features")
    assert (logs.code, logs.out) == (0, "features of 4\n")
    assert f"step features was taken over from attempt 1 of run {run_id}" in logs.err
    verified = place.call("verify", "last")
    assert (verified.code, "note:" in verified.out) == (0, False)
    told = [
        event
        for event in place.call("events", "last", "--json").json
        if event["event"] == "step.reused"
    ]
    assert [(event["step"], event["attempt"], event["detail"]) for event in told] == [
        (name, 0, {"run": run_id, "attempt": 1}) for name in ("load", "features", "check")
    ]


def test_a_rerun_of_a_rerun_takes_over_from_the_run_that_computed_it(good) -> None:
    place, _, record = good
    first = place.call("rerun", record["run_id"], "--from", "check", "--json").json
    second = place.call("rerun", first["run_id"], "--from", "train", "--json")

    assert second.code == 0
    assert ran(place) == {"check": 1, "train": 2}
    assert reused(second.json) == {
        "load": record["run_id"], "features": record["run_id"], "check": first["run_id"]
    }  # fmt: skip
    assert second.json["rerun_of"] == first["run_id"]


def test_without_anything_to_run_again_all_is_taken_over_and_said_so(good) -> None:
    place, _, record = good

    done = place.call("rerun", record["run_id"], "--json")

    assert (done.code, ran(place), done.json["state"]) == (0, {}, "succeeded")
    assert list(reused(done.json)) == ["load", "features", "check", "train"]
    assert (
        "nothing is run again: every step is taken over. --from STEP runs one and all below it"
        in done.err
    )


def test_what_makes_no_sense_is_refused(good) -> None:
    place, _, record = good
    for arguments, told in (
        (["none"], "there is no run 'none'"),
        ([record["run_id"], "--from", "lod"], "has no step 'lod'. Did you mean 'load'?"),
        ([record["run_id"], "-p", "row=5"], "there is no param 'row'. Did you mean 'rows'?"),
        (
            [record["run_id"], "--detach"],
            "--detach leaves the run to a server's workers, and there is none",
        ),
    ):
        refused = place.call("rerun", *arguments)
        assert refused.code == 2, arguments
        assert told in refused.err
        assert "Traceback" not in refused.err


def test_an_output_that_is_gone_from_the_store_is_computed_again(place) -> None:
    file = place.write("learn.py", LEARN)
    first = place.call("run", file, "--json").json
    artifact = first["steps"]["features"]["output"]["artifact"]["path"]
    ran(place)
    shutil.rmtree(place.folder / ".orchestrator" / "artifacts" / first["run_id"])

    done = place.call("rerun", "last", "--from", "check", "--json")

    assert (
        f"step features is run again: its output {artifact} is not in the artifact store any more"
        in done.err
    )
    assert (done.code, ran(place)) == (0, {"features": 1, "check": 1, "train": 1})
    assert done.json["steps"]["train"]["output"] == [4, True]


CHANGED = """
    params: {word: none}
    steps:
      a: {run: "echo a >> ran; echo ${{ params.word }}"}
      b: {run: "echo b >> ran", needs: a}
      c: {run: "echo c >> ran", needs: b}
      d: {run: "echo d >> ran", needs: a}
      page: {run: "echo page >> ran", needs: c, trigger: one_failed}
"""


def test_what_is_called_or_wired_otherwise_now_is_run_again_with_all_below(place) -> None:
    file = place.write("words.yaml", CHANGED)
    first = place.call("run", file, "--json").json
    assert ran(place) == {"a": 1, "b": 1, "c": 1, "d": 1}
    place.write(file, CHANGED.replace("echo b >> ran", "echo b >> ran; true"))

    done = place.call("rerun", "last", "--json")
    assert (done.code, ran(place)) == (0, {"b": 1, "c": 1})
    assert "run again, since they are called or wired otherwise now: b" in done.err
    assert reused(done.json) == dict.fromkeys("ad", first["run_id"])
    assert done.json["steps"]["page"]["state"] == "skipped"

    place.write(
        file,
        CHANGED.replace("needs: b}", "needs: d}") + '      e: {run: "echo e >> ran", needs: d}\n',
    )
    done = place.call("rerun", first["run_id"], "-p", "word=said", "--json")
    assert (done.code, ran(place)) == (0, {"a": 1, "b": 1, "c": 1, "d": 1, "e": 1})
    assert done.json["steps"]["a"]["output"] == "said"


def test_a_failed_run_can_be_the_beginning_of_another_one(place) -> None:
    file = place.write(
        "words.yaml", CHANGED.replace("echo c >> ran", "echo c >> ran; test -e good")
    )
    failed = place.call("run", file, "--json")
    assert (failed.code, ran(place)) == (1, {"a": 1, "b": 1, "c": 1, "d": 1, "page": 1})
    (place.folder / "good").touch()

    done = place.call("rerun", "last", "--json")

    assert (done.code, ran(place)) == (0, {"c": 1})
    assert done.json["steps"]["page"]["state"] == "skipped"
    assert place.call("show", failed.json["run_id"], "--json").json == failed.json
