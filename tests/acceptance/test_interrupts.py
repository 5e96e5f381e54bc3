"""Every way to stop `orchestrator run`: the record says so, and nothing goes on running."""

from __future__ import annotations

import os
import signal

import pytest

LONG = """
    import pathlib, subprocess, sys, time

    @step
    def quick():
        return 1

    @step
    def hold(value):
        sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
        subprocess.Popen(sleep, start_new_session=True)
        subprocess.run([sys.executable, "-c", f"import subprocess; subprocess.Popen({sleep!r})"], check=True)
        pathlib.Path("holding").touch()
        time.sleep(600)

    @step
    def stubborn(value):
        pathlib.Path("stubborn").touch()
        while True:
            try:
                time.sleep(600)
            except BaseException:
                pass

    @step
    def below(value):
        return value

    @pipeline
    def long():
        value = quick()
        below(hold(value))
        stubborn(value)
"""

SHELL = """
    steps:
      quick: {run: "true"}
      hold: {run: "touch holding; sleep 600 & sleep 600", needs: quick}
      stubborn: {run: "touch stubborn; trap '' TERM INT; while true; do sleep 600; done", needs: quick}
      below: {run: "true", needs: hold}
"""


@pytest.fixture
def long_run(place, wait_until):
    """Start a run, in a session of its own as a terminal would; give it once two steps are
    running."""
    started = []

    def start(file, *options):
        process = place.start("run", file, *options, start_new_session=True)
        started.append(process)

        wait_until(
            lambda: (
                process.poll() is not None
                or {"holding", "stubborn"} <= set(os.listdir(place.folder))
            )
        )
        assert process.poll() is None, process.communicate()
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("signum", "name", "text"),
    [
        (signal.SIGINT, "long.py", LONG),
        (signal.SIGTERM, "long.py", LONG),
        (signal.SIGINT, "long.yaml", SHELL),
        (signal.SIGHUP, "long.yaml", SHELL),
    ],
)
def test_an_interrupted_run_is_cancelled_in_the_record_and_all_it_started_is_gone(
    place, long_run, signum, name, text
):
    process = long_run(place.write(name, text), "--json")

    os.kill(process.pid, signum)
    out, err = process.communicate(timeout=120)

    assert process.returncode == 130
    assert place.processes() == []
    assert "Traceback" not in out + err
    shown = place.call("show", "last", "--json").json
    assert shown["state"] == "cancelled"
    told = (
        "interrupted by Ctrl-C"
        if signum == signal.SIGINT
        else f"its orchestrator run was ended by {signum.name}"
    )
    assert shown["cancel_reason"] == told
    states = {step: shown["steps"][step]["state"] for step in shown["steps"]}
    assert states == {
        "quick": "succeeded",
        "hold": "cancelled",
        "stubborn": "cancelled",
        "below": "cancelled",
    }
    (attempt,) = shown["steps"]["hold"]["attempts"]
    assert attempt["outcome"] == "cancelled"
    assert attempt["ended_at"] is not None
    assert f'"{shown["run_id"]}"' in out  # the record is printed all the same


def test_ctrl_c_in_a_terminal_reaches_the_whole_group_and_cancels_cleanly(place, long_run):
    process = long_run(place.write("long.py", LONG))

    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)

    assert process.returncode == 130
    assert "reason: interrupted by Ctrl-C" in out
    assert "Traceback" not in out + err
    assert place.processes() == []


def test_a_second_ctrl_c_changes_nothing(place, long_run):
    process = long_run(place.write("long.py", LONG))

    os.kill(process.pid, signal.SIGINT)
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=120)

    assert process.returncode == 130
    assert place.call("show", "last", "--json").json["state"] == "cancelled"


def test_a_second_ctrl_c_does_not_wait_for_the_grace_of_steps_that_are_being_stopped(
    place, long_run
):
    place.variables["ORCHESTRATOR_TIMEOUT_GRACE_S"] = "60"
    process = long_run(place.write("long.yaml", SHELL))

    os.kill(process.pid, signal.SIGINT)
    assert "being stopped; Ctrl-C again ends them at once" in process.stderr.readline()
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)

    assert process.returncode == 130
    assert "Traceback" not in out + err
    assert place.processes() == []
    stopped = place.call("show", "last", "--json").json["steps"]["stubborn"]["attempts"][0][
        "stopped"
    ]
    assert stopped["how"] == "killed with its worker"


def test_an_interrupt_before_the_run_began_leaves_nothing(place, wait_until):
    """The pipeline's own module is still being imported."""
    file = place.write("slow.py", """
    import pathlib, time

    pathlib.Path("importing").touch()
    time.sleep(600)
    """)  # fmt: skip
    with place.start("run", file) as process:
        wait_until(lambda: (place.folder / "importing").exists())
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)

    assert process.returncode == 130
    assert "cancelled before the run began" in err
    assert "Traceback" not in out + err
    assert place.processes() == []


@pytest.mark.parametrize(("name", "text"), [("long.py", LONG), ("long.yaml", SHELL)])
def test_a_killed_run_leaves_nothing_running_and_the_next_one_works(
    place, long_run, wait_until, name, text
):
    process = long_run(place.write(name, text))

    process.kill()
    process.wait()
    wait_until(lambda: not place.processes())

    done = place.call("run", place.write("next.yaml", "steps: {a: {run: 'echo next'}}"), "--json")
    assert done.code == 0
    assert done.json["steps"]["a"]["output"] == "next"
    listed = place.call("runs", "--json").json
    # nobody was left to record its end
    assert [run["state"] for run in listed] == [
        "succeeded",
        "running",
    ]


def test_a_run_whose_output_nobody_reads_any_more_is_cancelled(place):
    steps = "".join(
        f'  s{n}: {{ uses: "time:sleep", args: [0.05], needs: [s{n - 1}] }}\n'
        for n in range(1, 200)
    )
    path = place.write("talking.yaml", 'steps:\n  s0: { uses: "time:sleep", args: [0] }\n' + steps)
    with place.start("run", path) as process:
        process.stdout.readline()
        process.stdout.close()  # as `| head -1` does
        told = process.stderr.read()

    assert process.returncode == 1
    assert "Traceback" not in told
    (listed,) = place.call("runs", "--json").json
    assert listed["state"] == "cancelled"
