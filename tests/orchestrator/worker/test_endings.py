"""How attempts end that do not just return or raise: too slow, killed, swallowing, exiting."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from orchestrator.definition.pipeline import Pipeline
from orchestrator.record.run import AttemptRecord
from tests.support.fixtures import PipelineFrom, States, WaitUntil
from tests.support.worker_runs import OwnWorker, Runs

AFTER = """
    @step
    def below(value):
        return value

    @step
    def aside():
        return "went on"

    @pipeline
    def ending(folder: str = ""):
        below(end(folder))
        aside()
"""


@pytest.fixture
def ending(pipeline_from: PipelineFrom, tmp_path: Path) -> Callable[[str], Pipeline]:
    """Return the pipeline of a step `end(folder)`, one below it and one aside."""
    return lambda source: pipeline_from(source + AFTER, {"folder": str(tmp_path)})


def seconds(attempt: AttemptRecord) -> float:
    """How long the attempt took, from when a worker could take it: Celery's clock starts just
    before the claim."""
    return (attempt.ended_at_us - attempt.queued_at_us) / 1e6


def test_a_step_that_takes_too_long_times_out_promptly(
    runs: Runs, ending: Callable[[str], Pipeline], states: States
) -> None:
    record = runs.run(
        ending("""
    import time

    @step(timeout=0.5)
    def end(folder):
        time.sleep(60)
    """)
    )

    assert states(record) == {"end": "failed", "below": "upstream_failed", "aside": "succeeded"}
    attempt = record.steps["end"].attempts[0]
    assert attempt.outcome == "timed_out"
    assert 0.5 <= seconds(attempt) < 2.5
    assert attempt.error.type == "orchestrator.errors:StepTimedOut"
    assert attempt.error.message == "the attempt took longer than its timeout of 0.5 s"
    assert ", in end" in attempt.error.traceback


@pytest.mark.parametrize("named", ["TimeoutError", "['orchestrator.errors:StepTimedOut']"])
def test_a_timeout_may_be_retried(
    runs: Runs, ending: Callable[[str], Pipeline], named: str
) -> None:
    record = runs.run(
        ending(f"""
    import pathlib, time

    @step(timeout=0.5, retries=1, retry_delay=0, retry_on={named})
    def end(folder):
        path = pathlib.Path(folder, "tried")
        if not path.exists():
            path.touch()
            time.sleep(60)
        return "in time"
    """)
    )

    assert record.state == "succeeded"
    assert [attempt.outcome for attempt in record.steps["end"].attempts] == [
        "timed_out",
        "succeeded",
    ]


def test_a_retry_begins_when_all_that_a_timed_out_attempt_started_is_gone(
    own_worker: OwnWorker, ending: Callable[[str], Pipeline]
) -> None:
    source = """
    import pathlib, subprocess, time, psutil

    @step(timeout=0.5, retries=1, retry_delay=0)
    def end(folder):
        path = pathlib.Path(folder, "deaf")
        if path.exists():
            deaf = int(path.read_text())
            return psutil.pid_exists(deaf) and psutil.Process(deaf).status() != psutil.STATUS_ZOMBIE
        deaf = subprocess.Popen(["sh", "-c", "trap '' TERM; while true; do sleep 1; done"], start_new_session=True)
        path.write_text(str(deaf.pid))
        time.sleep(60)
    """
    with own_worker(slots=2) as runs:
        record = runs.run(ending(source))

        assert [attempt.outcome for attempt in record.steps["end"].attempts] == [
            "timed_out",
            "succeeded",
        ]
        assert runs.value(record, "below") is False


def test_a_shell_step_that_times_out_ends_with_its_children(
    runs: Runs, pipeline_from: PipelineFrom, tmp_path: Path, wait_until: WaitUntil
) -> None:
    pids = tmp_path / "pids"
    record = runs.run(
        pipeline_from(f"""
            shell = PipelineBuilder("shell")
            shell.add("slow", run="sleep 600 & echo $! > {pids}; sh -c 'sleep 600' & sleep 600", timeout=0.5)
        """)
    )

    attempt = record.steps["slow"].attempts[0]
    assert attempt.outcome == "timed_out"
    assert 0.5 <= seconds(attempt) < 2.5
    assert not is_running(int(pids.read_text()))


def is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_step_that_swallows_its_timeout_is_killed_and_recorded(
    own_worker: OwnWorker, ending: Callable[[str], Pipeline], states: States
) -> None:
    """Celery's hard time limit kills the child; the failure callback takes it to the ledger."""
    source = """
    import time

    @step(timeout=0.5)
    def end(folder):
        try:
            time.sleep(60)
        except BaseException:
            pass
        time.sleep(60)
    """
    with own_worker(slots=2) as runs:
        record = runs.run(ending(source))

    assert states(record) == {"end": "failed", "below": "upstream_failed", "aside": "succeeded"}
    attempt = record.steps["end"].attempts[0]
    assert attempt.outcome == "timed_out"
    assert seconds(attempt) < 4  # the timeout, 1 s of grace, and Celery's look once a second
    assert attempt.error.type == "orchestrator.errors:StepTimedOut"


def test_a_killed_child_is_recorded_as_lost_and_the_worker_goes_on(
    own_worker: OwnWorker, ending: Callable[[str], Pipeline], states: States
) -> None:
    source = """
    import os, signal

    @step
    def end(folder):
        os.kill(os.getpid(), signal.SIGKILL)
    """
    with own_worker(slots=2) as runs:
        record = runs.run(ending(source))

    assert states(record) == {"end": "failed", "below": "upstream_failed", "aside": "succeeded"}
    assert record.steps["below"].because == "end"
    attempt = record.steps["end"].attempts[0]
    assert attempt.outcome == "lost"
    assert attempt.worker is not None
    assert "signal 9 (SIGKILL)" in attempt.error.message


def test_a_lost_attempt_is_retried_when_the_step_has_retries(
    own_worker: OwnWorker, ending: Callable[[str], Pipeline]
) -> None:
    source = """
    import os, pathlib, signal

    @step(retries=1, retry_delay=0)
    def end(folder):
        path = pathlib.Path(folder, "tried")
        if not path.exists():
            path.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return "second time"
    """
    with own_worker(slots=2) as runs:
        record = runs.run(ending(source))

        assert [attempt.outcome for attempt in record.steps["end"].attempts] == [
            "lost",
            "succeeded",
        ]
        assert runs.value(record, "below") == "second time"


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        ("import sys; sys.exit(3)", "SystemExit", "3"),
        ("import sys; sys.exit('no data')", "SystemExit", "no data"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt", ""),
        ("raise GeneratorExit('gone')", "GeneratorExit", "gone"),
        ("raise Unpicklable('torn', open('/dev/null'))", "Unpicklable", "torn"),
        ("raise NoText()", "NoText", "(its text cannot be read: ZeroDivisionError)"),
        ("raise local_class()('from nowhere')", "Local", "from nowhere"),
        ("return recurse()", "RecursionError", "maximum recursion depth exceeded"),
        ("raise ExceptionGroup('both', [ValueError('a'), OSError('b')])", "ExceptionGroup", "both"),
        ("assert 1 == 2, 'not ' + 'equal' * 5000", "AssertionError", "not equalequal"),
    ],
)
def test_whatever_a_step_raises_fails_it_and_no_more(
    runs: Runs,
    ending: Callable[[str], Pipeline],
    states: States,
    body: str,
    kind: str,
    message: str,
) -> None:
    source = f"""
    class Unpicklable(Exception):
        def __init__(self, text, handle):
            super().__init__(text)
            self.handle = handle

    class NoText(Exception):
        def __str__(self):
            return 1 // 0

    def local_class():
        class Local(Exception):
            pass
        return Local

    def recurse():
        return recurse()

    @step
    def end(folder):
        {body}
    """
    record = runs.run(ending(source))

    assert states(record) == {"end": "failed", "below": "upstream_failed", "aside": "succeeded"}
    attempt = record.steps["end"].attempts[0]
    assert attempt.outcome == "failed"
    assert kind in attempt.error.type
    assert attempt.error.message.startswith(message)
    assert len(attempt.error.traceback) <= 16_001
    assert runs.run(ending("""
    @step
    def end(folder):
        return 1
    """)).state == "succeeded"  # fmt: skip


def test_a_step_that_ends_its_process_quietly_is_lost(
    own_worker: OwnWorker, ending: Callable[[str], Pipeline], states: States
) -> None:
    source = """
    import os

    @step
    def end(folder):
        print("before the end", flush=True)
        os._exit(0)
    """
    with own_worker(slots=2) as runs:
        record = runs.run(ending(source))

    assert states(record) == {"end": "failed", "below": "upstream_failed", "aside": "succeeded"}
    assert record.steps["end"].attempts[0].outcome == "lost"


def test_threads_and_processes_that_a_step_leaves_behind_do_not_hold_its_end(
    runs: Runs, ending: Callable[[str], Pipeline], tmp_path: Path
) -> None:
    record = runs.run(
        ending("""
    import pathlib, subprocess, threading, time

    @step
    def end(folder):
        child = subprocess.Popen(["sleep", "60"])
        pathlib.Path(folder, "child").write_text(str(child.pid))
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        return "ended"
    """)
    )
    os.kill(int((tmp_path / "child").read_text()), 9)

    assert record.state == "succeeded"
    assert seconds(record.steps["end"].attempts[0]) < 5


def test_a_step_may_use_signals_directories_and_environment_without_harm_to_the_next(
    own_worker: OwnWorker, pipeline_from: PipelineFrom
) -> None:
    source = """
        import os, signal

        @step
        def spoil():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.umask(0o777)
            os.close(0)
            return os.getcwd()

        @step
        def after(value):
            return value

        @pipeline
        def spoiling():
            after(spoil())
    """
    with own_worker() as runs:
        record = runs.run(pipeline_from(source))

    assert record.state == "succeeded"
