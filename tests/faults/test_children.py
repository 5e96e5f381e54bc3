"""A worker's child dies in the middle of a step: the step runs again at once, the cause is named,
nothing is left."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.support.site.site import Site

NOTICED_S = 2.0

DYING = """
    @step
    def end():
        if is_first("died"):
            {how}
        return "second time"

    @step
    def below(value):
        return value

    @pipeline
    def dying():
        below(end())
"""

WAYS = {
    "SIGKILL": (
        "os.kill(os.getpid(), signal.SIGKILL)",
        "ProcessLost",
        r"killed by signal 9 \(SIGKILL\)",
    ),
    "segmentation fault": (
        "ctypes.string_at(0)",
        "ProcessLost",
        r"killed by signal 11 \(SIGSEGV\)",
    ),
    "quiet exit": (
        "os._exit(0)",
        "ProcessLost",
        "ended with exit code 0 in the middle of the step",
    ),
    "exit code of a container without memory": (
        "os._exit(137)",
        "OutOfMemory",
        "exit code 137, as when memory is out",
    ),
    "native code at the end of its memory": (
        (
            "import resource; resource.setrlimit(resource.RLIMIT_AS, (2 << 30, -1)); "
            "libc = ctypes.CDLL(None); libc.malloc.restype = ctypes.c_void_p; "
            "libc.malloc(ctypes.c_size_t(4 << 30)) or libc.abort()"
        ),
        "ProcessLost",
        r"killed by signal 6 \(SIGABRT\)",
    ),
    "SIGKILL, with a forked copy that lives on": (
        "os.fork() or time.sleep(600); os.kill(os.getpid(), signal.SIGKILL)",
        "ProcessLost",
        r"killed by signal 9 \(SIGKILL\)",
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_step_whose_process_dies_runs_again_at_once_and_the_cause_is_named(
    shared: Site, way: str
) -> None:
    how, kind, message = WAYS[way]
    run = shared.submit(DYING.format(how=how))

    record = run.ended([("attempt.lost", "end", r"^process \d+ of worker \S+ is gone$")])

    assert record.state == "succeeded"
    first, second = record.steps["end"].attempts
    assert (first.outcome, second.outcome) == ("lost", "succeeded")
    assert (first.ended_at_us - first.started_at_us) / 1e6 < NOTICED_S
    assert first.error.type == kind
    assert re.search(message, first.error.message)
    assert shared.value(record, "below") == "second time"


def test_what_a_dead_child_had_started_is_gone_before_the_step_runs_again(
    shared: Site, runs_still: Callable[[int | str], bool]
) -> None:
    run = shared.submit("""
        def pids():
            return [name for name in os.listdir(FOLDER) if name.isdigit()]

        @step
        def end():
            if is_first("died"):
                command = f"trap '' TERM; echo > {FOLDER}/$$; sleep 600 & echo > {FOLDER}/$!; wait"
                subprocess.Popen(["sh", "-c", command])
                if os.fork() == 0:  # a daemon: its parent is gone, its session is its own
                    os.setsid()
                    subprocess.Popen(["sh", "-c", f"echo > {FOLDER}/$$; sleep 600"])
                    os._exit(0)
                os.wait()
                while len(pids()) < 3:
                    time.sleep(0.01)
                os.kill(os.getpid(), signal.SIGKILL)
            return [pid for pid in pids() if os.path.exists(f"/proc/{pid}")], len(pids())

        @pipeline
        def leaving():
            end()
    """)

    record = run.ended([("attempt.lost", "end", "is gone")])

    assert shared.value(record, "end") == ([], 3)


def test_what_may_not_be_killed_holds_nobody_up(site: Site) -> None:
    """As root's process in a step that called sudo, below a worker of another user."""
    (site.folder / "refusing_app.py").write_text("""
import os, pathlib
from orchestrator.worker.app import app

FOLDER = pathlib.Path(__file__).parent
kill = os.kill

def refuse(pid, signum):
    if (FOLDER / "foreign").exists() and (FOLDER / "foreign").read_text().strip() == str(pid):
        raise PermissionError(1, "Operation not permitted")
    kill(pid, signum)

os.kill = refuse
""")
    worker = site.at_work(app="refusing_app", slots=1)
    run = site.submit("""
        @step
        def end():
            if is_first("died"):
                place = FOLDER.parent / "foreign"
                subprocess.Popen(f"sleep 600 & echo $! > {place}.new; mv {place}.new {place}; sleep 600 & ", shell=True)
                while not place.exists():
                    time.sleep(0.01)
                os.kill(os.getpid(), signal.SIGKILL)
            return "second time"

        @pipeline
        def leaving():
            end()
    """)

    record = run.wait()

    assert record.state == "succeeded"
    first, second = record.steps["end"].attempts
    assert first.outcome == "lost"
    assert (second.started_at_us - first.started_at_us) / 1e6 < 2 * NOTICED_S
    assert site.commands("sleep") == 1
    assert worker.log.count("cannot be killed") == 1
    worker.end()
    run.ended([("attempt.lost", "end", "is gone")])


def test_what_a_step_left_behind_ends_with_its_process_when_that_is_renewed(site: Site) -> None:
    (site.folder / "renewing_app.py").write_text("""
from orchestrator.worker.app import app
app.conf.worker_max_tasks_per_child = 1
""")
    site.at_work(app="renewing_app", slots=1)
    run = site.submit("""
        @step
        def leave(number):
            subprocess.run(["sh", "-c", "setsid sleep 600 & setsid true &"])

        @pipeline
        def leaving():
            for number in range(3):
                leave(number)
    """)

    assert run.ended().state == "succeeded"  # nothing is left, no zombies either


def test_python_code_without_memory_fails_with_that_name_and_is_not_lost(shared: Site) -> None:
    run = shared.submit("""
        import resource

        @step(retries=1, retry_delay=0)
        def end():
            before = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (2 << 30, before[1]))
            try:
                return len(bytearray(4 << 30))
            finally:
                resource.setrlimit(resource.RLIMIT_AS, before)
    """)

    record = run.ended()

    assert [attempt.outcome for attempt in record.steps["end"].attempts] == ["failed", "failed"]
    assert record.steps["end"].attempts[0].error.type == "MemoryError"


def test_a_step_that_kills_its_child_each_time_fails_after_its_budget_and_others_are_unharmed(
    shared: Site,
) -> None:
    poison = shared.submit("""
        @step(retries=5, retry_delay=0)
        def kill():
            os.kill(os.getpid(), signal.SIGKILL)

        @step
        def below(value):
            return value

        @pipeline
        def poison():
            below(kill())
    """)
    other = shared.submit("""
        @step
        def work(number):
            time.sleep(0.05)

        @pipeline
        def other():
            for number in range(20):
                work(number)
    """)

    record = poison.ended([("attempt.lost", "kill", "is gone")] * 2)

    assert record.state == "failed"
    assert record.steps["below"].state == "upstream_failed"
    assert [attempt.outcome for attempt in record.steps["kill"].attempts] == ["lost"] * 3
    assert (
        record.steps["kill"].attempts[-1].error.message
        == "its process was killed by signal 9 (SIGKILL) (lost attempt 3 of 3: it is not tried"
        " again)"
    )
    assert other.ended().state == "succeeded"


def test_a_child_that_dies_between_the_message_and_the_claim_loses_the_message_only(
    site: Site,
) -> None:
    (site.folder / "dying_app.py").write_text("""
import os, signal
import orchestrator.worker.tasks
from orchestrator.worker.app import app

run_attempt = orchestrator.worker.tasks.run_attempt

def die_before_the_claim(process, attempt, *rest):
    if attempt.step == "first" and not os.path.exists("died"):
        open("died", "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return run_attempt(process, attempt, *rest)

orchestrator.worker.tasks.run_attempt = die_before_the_claim
os.chdir(os.path.dirname(__file__))
""")
    site.at_work(app="dying_app")
    run = site.submit("""
        @step
        def first():
            return 1
    """)

    record = run.ended([("message.lost", "first", r"^process \d+ of worker \S+ is gone$")])

    assert record.state == "succeeded"
    assert [attempt.outcome for attempt in record.steps["first"].attempts] == ["succeeded"]
    assert record.steps["first"].attempts[0].attempt == 1
