"""What an attempt wrote last, when its process dies or its streams are spoilt."""

from __future__ import annotations

import pytest

from orchestrator.attempt_id import AttemptId
from tests.support.fixtures import PipelineFrom
from tests.support.worker_runs import OwnWorker

DYING = {
    "killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "ended": "os._exit(3)",
    "crashed": "faulthandler.enable(); ctypes.string_at(0)",
    "aborted": "os.abort()",
}


@pytest.mark.parametrize("how", DYING)
def test_the_last_words_of_a_step_whose_process_dies_are_there(
    own_worker: OwnWorker, pipeline_from: PipelineFrom, how: str
) -> None:
    with own_worker() as runs:
        record = runs.run(
            pipeline_from(f"""
                import ctypes, faulthandler, os, signal

                @step(lost_attempts=1)
                def die():
                    for number in range(1500):
                        print("line", number)
                    os.write(2, b"unfinished")
                    {DYING[how]}

                @step
                def other():
                    print("before")
                    print("after")

                @pipeline
                def dying():
                    die()
                    other()
            """)
        )

        log = runs.ledger.log(AttemptId(record.run_id, "die", 1))
        assert record.steps["die"].state == "failed"
        assert runs.log(record, "other") == ["before", "after"]
    lines = [line for line in log.lines if line.startswith("line ")]
    assert [int(line.split()[1]) for line in lines] == [*range(log.dropped, 1500)]
    assert log.lines[len(lines)].startswith("unfinished")
    assert any("Segmentation fault" in line for line in log.lines) == (how == "crashed")


def test_the_last_words_of_a_step_that_is_killed_after_its_grace_are_there(
    own_worker: OwnWorker, pipeline_from: PipelineFrom
) -> None:
    with own_worker() as runs:
        record = runs.run(
            pipeline_from("""
                import os, signal, time

                @step(timeout=1)
                def deaf():
                    print("first")
                    signal.signal(signal.SIGUSR1, lambda *_: os.write(1, b"heard\\n"))
                    while True:
                        os.write(1, b"line\\n")  # print writes twice, and a signal may come between
                        time.sleep(0.005)

                @pipeline
                def hanging():
                    deaf()
            """)
        )

        lines = runs.log(record, "deaf")
    assert record.steps["deaf"].attempts[0].outcome == "timed_out"
    assert lines[0] == "first"
    assert lines.count("heard") >= 2
    assert set(lines) == {"first", "heard", "line"}


def test_the_log_of_a_noisy_step_that_dies_goes_on_where_it_was(
    own_worker: OwnWorker, pipeline_from: PipelineFrom
) -> None:
    with own_worker() as runs:
        record = runs.run(
            pipeline_from("""
                import os, signal, time

                @step(lost_attempts=1)
                def noisy():
                    number, end = 0, time.monotonic() + 2
                    while number < 40_000 or time.monotonic() < end:
                        os.write(1, b"%d %s\\n" % (number, b"x" * 1000))
                        number += 1
                    os.write(1, b"%d lines\\n" % number)
                    os.kill(os.getpid(), signal.SIGKILL)

                @pipeline
                def dying():
                    noisy()
            """)
        )

        log = runs.ledger.log(AttemptId(record.run_id, "noisy", 1))
    count = int(log.lines[-1].removesuffix(" lines"))
    assert [int(line.split()[0]) for line in log.lines[:-1]] == list(range(log.dropped, count))


def test_who_truncates_the_file_behind_a_stream_loses_no_line_that_follows(
    own_worker: OwnWorker, pipeline_from: PipelineFrom
) -> None:
    pipeline = pipeline_from("""
        import os, subprocess

        WAYS = {
            "opened": lambda: open("/dev/stdout", "w").write("seen\\n"),
            "redirected": lambda: subprocess.run("echo seen > /dev/stderr", shell=True),
            "shortened": lambda: (os.ftruncate(1, 0), print("seen")),
            "grown-again": lambda: (os.ftruncate(1, 0), print("seen", "x" * 10_000)),
        }

        def truncates(way, *before):
            print("before" * 10)
            WAYS[way]()
            print("after")

        def untouched(before):
            print("of the next step")

        truncating = PipelineBuilder("truncating")
        last = None
        for way in WAYS:
            last = truncating.add(way, truncates, args=[way, last])
            last = truncating.add(f"after-{way}", untouched, args=[last])
    """)
    with own_worker(slots=1) as runs:
        record = runs.run(pipeline)

        assert record.state == "succeeded", record
        for way in ("opened", "redirected", "shortened", "grown-again"):
            seen, after = runs.log(record, way)[-2:]
            assert (seen.split()[0], after) == ("seen", "after")
            assert runs.log(record, f"after-{way}") == ["of the next step"]


def test_the_last_words_of_a_step_that_dies_at_once_are_there(
    own_worker: OwnWorker, pipeline_from: PipelineFrom
) -> None:
    with own_worker() as runs:
        record = runs.run(
            pipeline_from("""
                import os

                @step(lost_attempts=20)
                def dies():
                    os.write(2, b"last words\\n")
                    os.kill(os.getpid(), 9)

                @pipeline
                def dying():
                    dies()
            """)
        )

        assert [runs.log(record, "dies", attempt) for attempt in range(1, 21)] == [
            ["last words"]
        ] * 20
