"""Celery's task events: all of them arrive, a few at a time."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.fixtures import PipelineFrom, WaitUntil
from tests.support.worker_runs import Runs

FAN = """
    @step
    def work(i):
        return i

    @pipeline
    def fan(width: int):
        for i in range(width):
            work(i)
"""


def of_run(events: list[dict[str, Any]], run_id: str) -> list[str]:
    named = {event["uuid"] for event in events if run_id in (event.get("kwargs") or "")}
    return [event["type"] for event in events if event.get("uuid") in named]


def test_every_event_of_a_fan_arrives_in_far_fewer_messages(
    runs: Runs,
    pipeline_from: PipelineFrom,
    celery_events: list[dict[str, Any]],
    wait_until: WaitUntil,
) -> None:
    def published() -> int:
        return runs.ledger.client.info("commandstats").get("cmdstat_publish", {"calls": 0})["calls"]

    before = published()
    record = runs.run(pipeline_from(FAN, {"width": 300}))

    wait_until(lambda: of_run(celery_events, record.run_id).count("task-succeeded") == 300)
    seen = of_run(celery_events, record.run_id)
    assert (seen.count("task-received"), seen.count("task-started")) == (300, 300)
    assert published() - before < 150  # of 900 events


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_the_last_events_of_a_worker_that_is_told_to_stop_arrive(
    start_worker: Any,
    pipeline_from: PipelineFrom,
    celery_events: list[dict[str, Any]],
    wait_until: WaitUntil,
    pool: str,
) -> None:
    worker, runs = start_worker(f"last-{pool}", "-P", pool, "-c", "1", "-E")
    record = runs.run(pipeline_from(FAN, {"width": 1}))

    worker.process.terminate()

    assert worker.process.wait(20) == 0
    wait_until(lambda: "task-succeeded" in of_run(celery_events, record.run_id))
