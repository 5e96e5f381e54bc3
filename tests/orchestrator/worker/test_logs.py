"""What steps write is in the ledger, by attempt and while they run."""

from __future__ import annotations

import pathlib
import re
from pathlib import Path

import psutil
import pytest

from orchestrator.attempt_id import AttemptId
from orchestrator.definition.pipeline import Pipeline
from tests.support.fixtures import PipelineFrom, WaitUntil
from tests.support.worker_runs import OwnWorker, Runs

NOISY = """
    import logging, os, subprocess, sys, time, pathlib

    @step
    def noisy():
        print("printed")
        print("to stderr", file=sys.stderr)
        logging.getLogger("my.model").warning("logged %d", 1)
        logging.getLogger("my.model").info("logged info")
        logging.getLogger("my.model").warning("half a pair: \\ud83d")
        os.write(1, b"from descriptor 1\\n")
        os.write(2, b"from descriptor 2\\n")
        subprocess.run(["sh", "-c", "echo from a subprocess; echo and its stderr >&2"], check=True)
        sys.stdout.write("no newline at the end")

    @pipeline
    def logs():
        noisy()
"""


def test_every_way_to_write_is_captured_in_order(runs: Runs, pipeline_from: PipelineFrom) -> None:
    record = runs.run(pipeline_from(NOISY))

    lines = [re.sub(r"^\S+ \S+ (?=WARNING|INFO)", "", line) for line in runs.log(record, "noisy")]
    assert lines == [
        "printed",
        "to stderr",
        "WARNING my.model: logged 1",
        "INFO my.model: logged info",
        "WARNING my.model: half a pair: \\ud83d",
        "from descriptor 1",
        "from descriptor 2",
        "from a subprocess",
        "and its stderr",
        "no newline at the end",
    ]


LIVE = """
    import os, pathlib, time

    @step
    def hold(gate):
        print("printed early")
        os.write(1, b"written early\\n")
        while not pathlib.Path(gate).exists():
            time.sleep(0.01)
        print("late")

    @pipeline
    def live(gate: str):
        hold(gate)
"""


def assert_live(runs: Runs, pipeline: Pipeline, gate: Path, wait_until: WaitUntil) -> None:
    run_id = runs.submit(pipeline)
    wait_until(
        lambda: (
            runs.ledger.log_lines(AttemptId(run_id, "hold", 1))
            == ["printed early", "written early"]
        )
    )
    gate.touch()
    assert runs.log(runs.wait(run_id), "hold") == ["printed early", "written early", "late"]


def test_lines_are_there_while_the_step_runs(
    runs: Runs, pipeline_from: PipelineFrom, tmp_path: Path, wait_until: WaitUntil
) -> None:
    gate = tmp_path / "gate"

    assert_live(runs, pipeline_from(LIVE, {"gate": str(gate)}), gate, wait_until)


def test_lines_of_a_child_that_replaced_a_dead_one_are_there_while_the_step_runs(
    own_worker: OwnWorker, pipeline_from: PipelineFrom, tmp_path: Path, wait_until: WaitUntil
) -> None:
    gate = tmp_path / "gate"
    with own_worker() as runs:
        runs.run(
            pipeline_from("""
                import os, signal

                @step
                def die():
                    os.kill(os.getpid(), signal.SIGKILL)

                @pipeline
                def dying():
                    die()
            """)
        )

        assert_live(runs, pipeline_from(LIVE, {"gate": str(gate)}), gate, wait_until)


def test_logs_of_steps_side_by_side_do_not_mix(runs: Runs, pipeline_from: PipelineFrom) -> None:
    source = """
        import subprocess, sys

        @step
        def chatter(name):
            for number in range(200):
                print(name, number)
                if number % 50 == 0:
                    subprocess.run(["echo", name, "child"], check=True)
            return name

        @pipeline
        def chatters():
            for name in "abcdefgh":
                chatter.options(name=name)(name)
    """
    record = runs.run(pipeline_from(source))

    for name in "abcdefgh":
        lines = runs.log(record, name)
        assert len(lines) == 204
        assert {line.split()[0] for line in lines} == {name}


def test_each_attempt_has_its_own_log(runs: Runs, pipeline_from: PipelineFrom) -> None:
    record = runs.run(
        pipeline_from("""
            import pathlib

            @step(retries=1, retry_delay=0)
            def unsteady(marker):
                path = pathlib.Path(marker)
                print("second" if path.exists() else "first")
                if not path.exists():
                    path.touch()
                    raise OSError("once")

            @pipeline
            def logs(marker: str):
                unsteady(marker)
        """, {"marker": str(runs.settings.data_dir / "unsteady")})
    )  # fmt: skip

    assert runs.log(record, "unsteady", 1) == ["first"]
    assert runs.log(record, "unsteady", 2) == ["second"]


def test_a_noisy_step_keeps_its_last_lines(runs: Runs, pipeline_from: PipelineFrom) -> None:
    record = runs.run(
        pipeline_from("""
            @step
            def noisy():
                for number in range(50_000):
                    print("line", number)

            @pipeline
            def logs():
                noisy()
        """)
    )

    limit = runs.settings.log_lines_per_attempt
    log = runs.ledger.log(AttemptId(record.run_id, "noisy", 1))
    assert list(log.lines) == [f"line {number}" for number in range(50_000 - limit, 50_000)]
    assert log.dropped == 50_000 - limit


def test_lines_keep_their_numbers_while_more_is_written_than_is_kept_on_disk(
    runs: Runs, pipeline_from: PipelineFrom
) -> None:
    record = runs.run(
        pipeline_from("""
            import os, time

            @step
            def noisy():
                number, end = 0, time.monotonic() + 2
                while number < 40_000 or time.monotonic() < end:
                    os.write(1, b"%d %s\\n" % (number, b"x" * 1000))
                    number += 1
                return number, os.fstat(1).st_blocks * 512, os.fstat(1).st_size

            @pipeline
            def logs():
                noisy()
        """)
    )

    log = runs.ledger.log(AttemptId(record.run_id, "noisy", 1))
    count, on_disk, size = runs.value(record, "noisy")
    assert [int(line.split()[0]) for line in log.lines] == list(range(log.dropped, count))
    assert on_disk < size


def test_a_progress_bar_is_its_last_state_and_a_long_line_says_what_is_missing(
    runs: Runs, pipeline_from: PipelineFrom
) -> None:
    record = runs.run(
        pipeline_from("""
            import sys

            @step
            def work():
                for number in range(20_001):
                    sys.stderr.write(f"\\r{number:6} of 20000 {'#' * (number // 500)}")
                sys.stderr.write("\\nafter\\n")
                for _ in range(10):
                    sys.stdout.write("é" * 1_000_000)
                sys.stdout.write("\\nlast\\n")
                sys.stdout.write("50 %\\r100 %")

            @pipeline
            def logs():
                work()
        """)
    )

    assert runs.log(record, "work") == [
        f" 20000 of 20000 {'#' * 40}",
        "after",
        "é" * 8000 + "… [9,992,000 more characters of this line were not kept]",
        "last",
        "100 %",
    ]


def test_a_step_may_close_or_replace_its_stdout_and_the_next_is_captured(
    own_worker: OwnWorker, pipeline_from: PipelineFrom
) -> None:
    with own_worker() as runs:
        record = runs.run(
            pipeline_from("""
                import contextlib, io, os, sys

                @step
                def redirect():
                    with contextlib.redirect_stdout(io.StringIO()):
                        print("kept by the step")
                    print("after")

                @step
                def close():
                    print("before")
                    os.close(1)

                @step
                def next_one():
                    print("captured")

                @pipeline
                def closing():
                    first = redirect()
                    second = close.after(first)()
                    next_one.after(second)()
            """)
        )

        assert record.state == "succeeded"
        assert runs.log(record, "redirect") == ["after"]
        assert runs.log(record, "close") == ["before"]
        assert runs.log(record, "next_one") == ["captured"]


@pytest.mark.parametrize(
    "harm",
    [
        "sys.stdout.close(); sys.stderr.close()",
        "sys.stdout = sys.stderr = open(os.devnull, 'w')",
        "sys.stdout = codecs.getwriter('utf-8')(sys.stdout.detach())",
        "sys.stdout = sys.stderr = None",
    ],
)
def test_streams_that_a_step_broke_are_whole_for_the_next(
    own_worker: OwnWorker, pipeline_from: PipelineFrom, harm: str
) -> None:
    with own_worker() as runs:
        record = runs.run(
            pipeline_from(f"""
                import codecs, os, sys

                @step
                def harm():
                    {harm}

                @step
                def next_one():
                    print("captured")
                    print("too", file=sys.stderr)

                @pipeline
                def harming():
                    next_one.after(harm())()
            """)
        )

        assert record.state == "succeeded"
        assert runs.log(record, "next_one") == ["captured", "too"]


def test_bytes_that_are_no_text_are_shown_and_the_rest_is_kept(
    runs: Runs, pipeline_from: PipelineFrom
) -> None:
    record = runs.run(
        pipeline_from("""
            import os

            @step
            def binary():
                os.write(1, b"a\\xff\\xfe\\nb\\r\\n" + "é\\n".encode())

            @pipeline
            def logs():
                binary()
        """)
    )

    assert runs.log(record, "binary") == ["a\ufffd\ufffd", "b", "é"]


def test_what_a_process_writes_that_a_step_has_left_behind_is_in_no_other_log_and_is_not_kept(
    own_worker: OwnWorker, pipeline_from: PipelineFrom, tmp_path: Path, wait_until: WaitUntil
) -> None:
    source = f"""
        import os, pathlib, subprocess, time

        FOLDER = pathlib.Path("{tmp_path}")

        @step
        def leave():
            print("left it")
            wait = f"until [ -e {{FOLDER}}/go ]; do sleep 0.01; done; echo late; touch {{FOLDER}}/said; sleep 600"
            left = subprocess.Popen(["sh", "-c", wait], start_new_session=True)
            return left.pid, os.getpid()

        @pipeline
        def leaving():
            leave()
    """
    following = f"""
        import pathlib, time

        FOLDER = pathlib.Path("{tmp_path}")

        @step
        def follow():
            print("before")
            (FOLDER / "go").touch()
            while not (FOLDER / "said").exists():
                time.sleep(0.01)
            print("after")

        @pipeline
        def coming_after():
            follow()
    """
    with own_worker() as runs:
        record = runs.run(pipeline_from(source))
        left, child = runs.value(record, "leave")
        after = runs.run(pipeline_from(following))

        assert runs.log(record, "leave") == ["left it"]
        assert runs.log(after, "follow") == ["before", "after"]
        written = pathlib.Path(f"/proc/{left}/fd/1")
        wait_until(lambda: written.stat().st_size == 0)
        open_files = pathlib.Path(f"/proc/{child}/fd")
        many = len([*open_files.iterdir()])
        for process in (*psutil.Process(left).children(), psutil.Process(left)):
            process.kill()
        wait_until(lambda: len([*open_files.iterdir()]) == many - 1)
