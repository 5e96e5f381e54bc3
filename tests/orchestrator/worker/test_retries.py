"""Failed attempts: each is recorded, and the ledger holds when the next one is due."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.definition.pipeline import Pipeline
from tests.support.fixtures import PipelineFrom, WaitUntil
from tests.support.worker_runs import Runs

FLAKY = """
    import pathlib

    class Transient(OSError):
        pass

    class Fatal(Transient):
        pass

    @step({options})
    def flaky(folder, times):
        attempt = len(list(pathlib.Path(folder).iterdir())) + 1
        pathlib.Path(folder, str(attempt)).touch()
        if attempt <= times:
            return fail(attempt)
        return attempt

    def fail(attempt):
        raise {error}(f"attempt {{attempt}} fell")

    @pipeline(name="p")
    def retrying(folder: str, times: int = 1):
        flaky(folder, times)
"""


@pytest.fixture
def flaky(pipeline_from: PipelineFrom, tmp_path: Path) -> Callable[..., Pipeline]:
    """Return a pipeline of one step that fails `times` times with `error`."""
    numbers = itertools.count()

    def build(options: str, error: str = "OSError", times: int = 1) -> Pipeline:
        folder = tmp_path / f"attempts-{next(numbers)}"
        folder.mkdir()
        return pipeline_from(
            FLAKY.format(options=options, error=error), {"folder": str(folder), "times": times}
        )

    return build


def test_every_attempt_is_in_the_record_with_its_error_and_the_users_frames(
    runs: Runs, flaky: Callable[..., Pipeline]
) -> None:
    record = runs.run(flaky("retries=2, retry_delay=0.01", times=2))

    attempts = record.steps["flaky"].attempts
    assert record.state == "succeeded"
    assert runs.value(record, "flaky") == 3
    assert [attempt.outcome for attempt in attempts] == ["failed", "failed", "succeeded"]
    assert [attempt.attempt for attempt in attempts] == [1, 2, 3]
    for attempt in attempts[:2]:
        assert attempt.error.type == "OSError"
        assert attempt.error.message == f"attempt {attempt.attempt} fell"
        frames = [
            line.split(", in ")[1]
            for line in attempt.error.traceback.splitlines()
            if ", in " in line
        ]
        assert frames == ["flaky", "fail"]
    assert attempts[2].error is None


def test_the_due_time_is_in_the_ledger_and_grows_with_backoff_up_to_the_cap(
    runs: Runs, flaky: Callable[..., Pipeline]
) -> None:
    options = "retries=4, retry_delay=0.1, retry_backoff=3, retry_max_delay=0.5, retry_jitter=0"
    record = runs.run(flaky(options, times=4))

    told = [event for event in runs.ledger.events(record.run_id) if event.kind == "step.retrying"]
    delays_s = [(event.fields["due_at"] - event.at_us) / 1e6 for event in told]
    assert delays_s == pytest.approx([0.1, 0.3, 0.5, 0.5], abs=1e-3)
    for event, attempt in zip(told, record.steps["flaky"].attempts[1:], strict=True):
        assert attempt.queued_at_us >= event.fields["due_at"]


def test_jitter_spreads_the_due_times(runs: Runs, pipeline_from: PipelineFrom) -> None:
    record = runs.run(
        pipeline_from("""
            @step(retries=1, retry_delay=0.2, retry_jitter=0.5)
            def fail():
                raise OSError

            @pipeline
            def jitter():
                for number in range(10):
                    fail.options(name=f"s{number}")()
        """)
    )

    told = [event for event in runs.ledger.events(record.run_id) if event.kind == "step.retrying"]
    delays_s = {round((event.fields["due_at"] - event.at_us) / 1e6, 6) for event in told}
    assert len(delays_s) > 5
    assert all(0.1 <= delay <= 0.3 for delay in delays_s)


def test_a_step_that_waits_for_its_retry_holds_no_child_and_shows_when_it_is_due(
    runs: Runs, flaky: Callable[..., Pipeline], pipeline_from: PipelineFrom
) -> None:
    """Four children, six steps that wait for long: another run goes through meanwhile."""
    waiting = [runs.submit(flaky("retries=1, retry_delay=600, retry_jitter=0")) for _ in range(6)]
    for run_id in waiting:
        record = runs.wait(run_id, lambda record: record.steps["flaky"].state == "retrying")
        due_in_s = (
            record.steps["flaky"].due_at_us - record.steps["flaky"].attempts[0].ended_at_us
        ) / 1e6
        assert due_in_s == pytest.approx(600, abs=1e-3)

    assert runs.run(flaky("retries=0", times=0)).state == "succeeded"

    for run_id in waiting:
        assert runs.ledger.cancel(run_id, "the test is over") == 1
        assert runs.wait(run_id).state == "cancelled"


@pytest.mark.parametrize(
    ("options", "error", "attempts"),
    [
        ("retries=1, retry_delay=0, retry_on=OSError", "OSError", 2),
        ("retries=1, retry_delay=0, retry_on=OSError", "ConnectionResetError", 2),
        ("retries=1, retry_delay=0, retry_on=OSError", "ValueError", 1),
        ("retries=1, retry_delay=0, retry_on=Transient", "Fatal", 2),
        ("retries=1, retry_delay=0, retry_on=Transient", "OSError", 1),
        ("retries=1, retry_delay=0, never_retry_on=[Fatal]", "Fatal", 1),
        ("retries=1, retry_delay=0, never_retry_on=[Fatal]", "Transient", 2),
        ("retries=1, retry_delay=0, retry_on=OSError, never_retry_on=Transient", "Fatal", 1),
        ("retries=1, retry_delay=0, retry_on=['LookupError']", "KeyError", 2),
    ],
)
def test_exception_classes_and_their_bases_decide_about_the_retry(
    runs: Runs, flaky: Callable[..., Pipeline], options: str, error: str, attempts: int
) -> None:
    record = runs.run(flaky(options, error, times=9))

    assert record.state == "failed"
    assert len(record.steps["flaky"].attempts) == attempts


def test_celery_events_name_the_step_and_show_each_end(
    runs: Runs,
    flaky: Callable[..., Pipeline],
    celery_events: list[dict[str, Any]],
    wait_until: WaitUntil,
) -> None:
    record = runs.run(flaky("retries=2, retry_delay=0.01", times=9))

    def of_the_run() -> list[dict[str, object]]:
        named = {
            event["uuid"] for event in celery_events if record.run_id in (event.get("kwargs") or "")
        }
        return [event for event in celery_events if event.get("uuid") in named]

    wait_until(
        lambda: len([event for event in of_the_run() if event["type"] == "task-failed"]) == 1
    )
    received = [event for event in of_the_run() if event["type"] == "task-received"]
    assert [event["name"] for event in received] == ["p.flaky"] * 3
    for attempt, event in enumerate(received, start=1):
        assert f"'attempt': {attempt}" in event["kwargs"]
        assert "'step': 'flaky'" in event["kwargs"]
    ends = [
        event["type"] for event in of_the_run() if event["type"] in ("task-retried", "task-failed")
    ]
    assert ends == ["task-retried", "task-retried", "task-failed"]
