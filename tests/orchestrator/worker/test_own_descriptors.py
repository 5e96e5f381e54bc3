"""A step that closes descriptors of its process fails, and says so; no attempt is lost, no file
written to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.settings.model import Settings
from tests.support.fixtures import PipelineFrom
from tests.support.worker_runs import Runs

CLOSED = "orchestrator.errors:DescriptorsClosed"

WAYS = {
    "all of them": "os.closerange(3, 4096)",
    "all, one by one": "[close(number) for number in range(3, 4096)]",
    "all, and the streams": "os.closerange(0, 4096)",
    "all, and returned by an exception": "os.closerange(3, 4096); raise ValueError('of the step')",
    "all, in a thread that goes on": (
        "threading.Thread(target=lambda: (os.closerange(3, 4096), time.sleep(60))).start();"
        " time.sleep(0.5)"
    ),
    "all, for longer than a log is shipped and a lease renewed": (
        "os.closerange(3, 4096); time.sleep(7)"
    ),
}


@pytest.fixture(scope="module")
def one_child(
    settings: Settings, shared_redis_url: str, runs_by: Callable[[Settings], Runs]
) -> Iterator[Runs]:
    from orchestrator.local.worker import local_worker

    with local_worker(settings, shared_redis_url, 1, ["cpu"], ready_within_s=30) as started:
        yield runs_by(started.settings)
        started.kill()


@pytest.mark.parametrize("way", WAYS)
def test_a_step_that_closes_descriptors_of_its_process_fails_and_says_so(
    one_child: Runs, pipeline_from: PipelineFrom, way: str
) -> None:
    record = one_child.run(
        pipeline_from(f"""
            import os, threading, time

            def close(number):
                try:
                    os.close(number)
                except OSError:
                    pass

            @step(retries=1, retry_delay=0)
            def closes():
                print("before")
                {WAYS[way]}

            @step(trigger="always")
            def after(closes):
                print("after")

            @pipeline
            def closing():
                after(closes())
        """)
    )

    first, second = record.steps["closes"].attempts
    assert [first.outcome, second.outcome] == ["failed", "failed"]
    assert first.error.type == CLOSED
    assert "os.closerange" in first.error.message
    assert one_child.log(record, "closes")[0] == "before"
    assert record.steps["after"].state == "succeeded"
    assert one_child.log(record, "after") == ["after"]


def test_whichever_descriptor_a_step_closes_no_attempt_is_lost(
    one_child: Runs, pipeline_from: PipelineFrom
) -> None:
    record = one_child.run(
        pipeline_from("""
            import contextlib, os

            @step(trigger="always")
            def closes(place, before):
                numbers = sorted(int(number) for number in os.listdir("/proc/self/fd"))
                print("before")
                with contextlib.suppress(OSError):  # that of listdir
                    os.close(numbers[place % len(numbers)])

            @pipeline
            def closing():
                before = None
                for place in range(40):
                    before = closes.options(name=f"step-{place}")(place, before)
        """)
    )

    for name, step in record.steps.items():
        assert len(step.attempts) == 1, (name, step)
        assert step.state == "succeeded" or step.attempts[0].error.type == CLOSED, (name, step)
        assert one_child.log(record, name)[:1] == ["before"], name
    assert {step.state for step in record.steps.values()} == {"succeeded", "failed"}


def test_nothing_of_ours_is_written_into_files_that_get_the_numbers_of_closed_descriptors(
    one_child: Runs, pipeline_from: PipelineFrom, tmp_path: Path
) -> None:
    record = one_child.run(
        pipeline_from(f"""
            import os, time

            kept = []

            @step
            def closes():
                os.closerange(3, 4096)
                for number in range(100):
                    kept.append(open(f"{tmp_path}/file-{{number}}", "w"))
                    kept[-1].write("of the step")
                    kept[-1].flush()
                print("a line for the log")
                time.sleep(1.5)

            @pipeline
            def closing():
                closes()
        """)
    )

    assert record.steps["closes"].attempts[0].error.type == CLOSED
    assert {path.read_text() for path in tmp_path.glob("file-*")} == {"of the step"}
    assert "of the step" not in one_child.log(record, "closes")
