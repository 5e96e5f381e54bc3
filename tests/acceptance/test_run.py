"""`orchestrator run`: from a file to the record, with what it starts and what it leaves behind."""

from __future__ import annotations

import json
import re
from datetime import datetime

import psutil

from orchestrator.processes.tree import runs

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")

MIXED = """
    @step
    def give() -> dict:
        print("giving")
        return {"f1": 0.5, "pair": (1, 2)}

    @step
    def large(value):
        return bytes(10_000)

    @step
    def bad(value):
        raise ValueError("as planned")

    @step
    def below(value):
        return value

    @pipeline
    def mixed(rate: float = 0.5):
        value = give()
        large(value["f1"])
        below(bad(value))
"""

GOOD = """
    @step
    def one() -> int:
        return 1

    @pipeline
    def good():
        one()
"""


def test_the_record_as_json_is_all_of_standard_output(place):
    done = place.call("run", place.write("mixed.py", MIXED), "--json", "-p", "rate=1")

    assert done.code == 1
    record = done.json
    assert list(record) == [
        "run_id",
        "pipeline",
        "state",
        "params",
        "created_at",
        "started_at",
        "ended_at",
        "steps",
    ]
    assert (record["pipeline"], record["state"], record["params"]) == (
        "mixed",
        "failed",
        {"rate": 1.0},
    )
    assert all(TIME.fullmatch(record[name]) for name in ("created_at", "started_at", "ended_at"))
    assert list(record["steps"]) == ["give", "large", "bad", "below"]
    give, large, bad, below = record["steps"].values()
    assert set(give) == {"state", "upstream", "pool", "output", "arguments", "params", "attempts"}
    assert (give["state"], give["upstream"], give["output"]) == (
        "succeeded",
        [],
        {"f1": 0.5, "pair": [1, 2]},
    )
    (attempt,) = give["attempts"]
    assert list(attempt) == [
        "attempt",
        "worker",
        "queued_at",
        "started_at",
        "ended_at",
        "outcome",
        "error",
    ]
    assert all(TIME.fullmatch(attempt[name]) for name in ("queued_at", "started_at", "ended_at"))
    assert attempt["queued_at"] <= attempt["started_at"] <= attempt["ended_at"]
    assert (attempt["attempt"], attempt["outcome"], attempt["error"]) == (1, "succeeded", None)
    assert set(large["output"]["artifact"]) == {"path", "sha256", "size_bytes", "kind"}
    assert large["output"]["artifact"]["kind"] == "bytes"
    assert (bad["state"], bad["output"], bad["upstream"]) == ("failed", None, ["give"])
    error = bad["attempts"][0]["error"]
    assert (error["type"], error["message"]) == ("ValueError", "as planned")
    assert "mixed.py" in error["traceback"]
    assert (below["state"], below["attempts"], below["because"]) == ("upstream_failed", [], "bad")


def test_a_person_sees_each_change_the_failure_its_log_and_what_it_cost(place):
    done = place.call("run", place.write("mixed.py", MIXED))

    assert done.code == 1
    assert "Traceback" not in done.out + done.err
    assert re.search(r"^\d\d:\d\d:\d\d\.\d{3} give succeeded$", done.out, re.MULTILINE)
    assert "bad failed: ValueError: as planned" in done.out
    assert "not run, because bad failed: below" in done.out
    assert re.search(r"run \S+ failed in .*: 2 succeeded, 1 failed, 1 upstream_failed", done.out)
    assert "look closer: orchestrator show" in done.out


def test_the_record_can_be_read_after_the_run_has_ended(place):
    """The embedded server is started again for each look, and stopped after it."""
    ran = place.call("run", place.write("mixed.py", MIXED), "--json")

    shown = place.call("show", "last", "--json")
    assert shown.code == 0
    assert shown.json == ran.json
    run_id = ran.json["run_id"]
    (listed,) = place.call("runs", "--json").json
    assert (listed["run_id"], listed["pipeline"], listed["state"]) == (run_id, "mixed", "failed")
    assert listed["steps"] == {"succeeded": 2, "failed": 1, "upstream_failed": 1}
    assert place.call("logs", run_id, "give").out == "giving\n"
    events = place.call("events", run_id[:-3], "--json").json
    assert events[0]["event"] == "run.created"
    assert events[-1]["event"] == "run.failed"
    assert not place.processes()


def test_nothing_is_left_running(place):
    assert place.call("run", place.write("good.py", GOOD)).code == 0

    assert place.processes() == []


def test_what_a_step_leaves_running_ends_with_the_run(place):
    """Also what made a session of its own and handed itself to init."""
    file = place.write("leaving.py", """
    import subprocess, sys

    @step
    def leave():
        sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
        subprocess.Popen(sleep)
        subprocess.Popen(sleep, start_new_session=True)
        subprocess.run([sys.executable, "-c", f"import subprocess; subprocess.Popen({sleep!r})"], check=True)

    @pipeline
    def leaving():
        leave()
    """)  # fmt: skip

    assert place.call("run", file).code == 0
    assert place.processes() == []


def test_two_runs_at_once_in_one_folder_both_succeed(place):
    file = place.write("busy.py", """
    import os, time

    @step
    def work(number):
        time.sleep(0.05)
        return os.getppid()

    @step
    def parents(*pids):
        return sorted(set(pids))

    @pipeline
    def busy():
        parents(*[work(number) for number in range(20)])
    """)  # fmt: skip

    started = [place.start("run", file, "--json") for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in started]

    assert [process.returncode for process in started] == [0, 0], outputs
    records = [json.loads(out) for out, _ in outputs]
    used = [record["steps"]["parents"]["output"] for record in records]
    assert len(used[0]) == len(used[1]) == 1
    assert used[0] != used[1]  # each run has a worker of its own
    assert len(place.call("runs", "--json").json) == 2


def test_the_number_of_slots_is_the_number_of_steps_at_a_time(place):
    file = place.write("meeting.py", """
    import pathlib, time

    @step
    def meet(name):
        pathlib.Path(f"met-{name}").touch()
        limit = time.monotonic() + 20
        while len(list(pathlib.Path().glob("met-*"))) < 6:
            if time.monotonic() > limit:
                raise TimeoutError("not six at a time")
            time.sleep(0.01)

    @pipeline
    def meeting():
        for name in "abcdef":
            meet.options(name=name)(name)
    """)  # fmt: skip

    assert place.call("run", file, "--workers", 6).code == 0


def test_params_of_every_type_are_read_from_the_command_line(place):
    file = place.write("params.py", """
    from typing import Literal

    @step
    def take(**values):
        return values

    @pipeline
    def typed(text: str, equation: str, count: int, rate: float, whole: float, flag: bool, names: list[str],
              sizes: dict[str, int], kind: Literal["small", "large"], untouched: int = 5):
        take(text=text, equation=equation, count=count, rate=rate, whole=whole, flag=flag, names=names, sizes=sizes,
             kind=kind, untouched=untouched)
    """)  # fmt: skip
    given = [
        "text=12",
        "equation=a=b",
        "count=7",
        "rate=1e-3",
        "whole=2",
        "flag=true",
        "names=[a, b]",
    ]
    given += ['sizes={"a": 1}', "kind=large"]

    done = place.call("run", file, "--json", *[word for pair in given for word in ("-p", pair)])

    assert done.code == 0, done.err
    assert done.json["params"] == done.json["steps"]["take"]["output"]
    assert done.json["params"] == {
        "text": "12",
        "equation": "a=b",
        "count": 7,
        "rate": 0.001,
        "whole": 2.0,
        "flag": True,
        "names": ["a", "b"],
        "sizes": {"a": 1},
        "kind": "large",
        "untouched": 5,
    }


def test_yaml_and_python_run_alike(place):
    place.write("functions.py", "def double(value: int) -> int:\n    return 2 * value\n")
    file = place.write("double.yaml", """
    name: double
    params: {value: 3}
    steps:
      last:
        run: echo "got ${{ steps.twice.output }}"
      once: {uses: "functions:double", args: ["${{ params.value }}"]}
      twice:
        uses: "functions:double"
        with: {value: "${{ steps.once.output }}"}
        retries: 2
    """)  # fmt: skip

    done = place.call("run", f"{file}:double", "-p", "value=4", "--json")

    assert done.code == 0
    outputs = {name: step["output"] for name, step in done.json["steps"].items()}
    assert outputs == {"last": "got 16", "once": 8, "twice": 16}


def worker_of(process):
    members = psutil.Process(process.pid).children()
    return next((member for member in members if "orchestrator.worker" in member.cmdline()), None)


def test_a_local_worker_that_is_killed_is_started_again_and_the_run_goes_on(place, wait_until):
    file = place.write(
        "long.yaml",
        """
        steps:
          before: {run: 'echo kept'}
          long: {run: 'echo $$ >> began; sleep 600 & until [ -e go ]; do sleep 0.05; done; kill $!', needs: before}
        """,
    )
    began = place.folder / "began"
    with place.start("run", file) as process:
        wait_until(began.exists)
        worker = worker_of(process)
        tree = worker.children(recursive=True)
        worker.kill()
        wait_until(lambda: len(began.read_text().split()) == 2)
        assert not [member for member in tree if runs(member)]
        (place.folder / "go").touch()
        out, err = process.communicate(timeout=120)

    assert process.returncode == 0, err
    assert "was killed by signal 9 (SIGKILL): it is started again" in out
    record = place.call("show", "last", "--json").json
    assert [len(record["steps"][step]["attempts"]) for step in ("before", "long")] == [1, 2]
    first = record["steps"]["long"]["attempts"][0]
    assert (first["outcome"], first["error"]["type"]) == ("lost", "WorkerLost")
    assert "was killed by signal 9 (SIGKILL)" in first["error"]["message"]
    assert place.call("verify", "last").code == 0


def test_a_step_that_kills_each_local_worker_fails_the_run_with_its_cause(place):
    file = place.write(
        "poison.yaml", "steps: {poison: {run: 'kill -9 $(ps -o ppid= -p $PPID); sleep 600'}}"
    )

    done = place.call("run", file)

    assert done.code == 1
    assert done.out.count("it is started again") == 3
    assert "killed by signal 9 (SIGKILL) (lost attempt 3 of 3: it is not tried again)" in done.out
    assert place.call("verify", "last").code == 0


def test_a_worker_that_dies_before_it_is_ready_is_told_with_the_end_of_its_log(place, wait_until):
    file = place.write("long.yaml", "steps: {long: {uses: 'time:sleep', args: [600]}}")
    with place.start("run", file) as process:
        wait_until(lambda: worker_of(process))
        worker_of(process).kill()
        out, err = process.communicate(timeout=120)

    # it did not succeed, and no mistake of the user kept it from that
    assert process.returncode == 1
    assert "LocalWorkerError: local worker" in err
    assert "Traceback" not in out + err
    shown = place.call("show", "last", "--json").json
    assert (shown["state"], shown["steps"]["long"]["state"]) == ("cancelled", "cancelled")


def test_a_retry_comes_soon_after_it_is_due(place):
    file = place.write(
        "flaky.yaml",
        "steps: {flaky: {run: 'exit 1', retries: 5, retry_delay: 0.15, retry_backoff: 1}}",
    )

    done = place.call("run", file, "--json")

    assert done.code == 1
    run_id = done.json["run_id"]
    events = place.call("events", run_id, "--json").json
    due = [event["detail"]["due_at"] / 1e6 for event in events if event["event"] == "step.retrying"]
    queued = [
        datetime.fromisoformat(event["at"]).timestamp()
        for event in events
        if event["event"] == "step.queued"
    ]
    late_s = sorted(came - was_due for was_due, came in zip(due, queued[1:], strict=True))
    assert late_s[0] >= 0
    assert late_s[len(late_s) // 2] < 0.25  # a poll twice a second alone would be later
