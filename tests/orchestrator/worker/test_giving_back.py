"""Messages that a worker took and did not begin are there for the next worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.local.worker import LocalWorker, local_worker
from orchestrator.messages.queues import queue_length
from orchestrator.settings.model import Settings
from tests.support.fixtures import PipelineFrom, WaitUntil
from tests.support.worker_runs import Runs

ENDING_APP = """
import os, signal
from celery.signals import task_received
from orchestrator.worker.app import app

@task_received.connect
def end(**_):
    os.kill(os.getpid(), signal.SIGTERM)  # the message is taken, and no child has it yet
"""


@pytest.fixture
def ending_worker(
    settings: Settings, shared_redis_url: str, tmp_path: Path
) -> Iterator[LocalWorker]:
    """Return a started worker that is told to end as soon as it has taken a message."""
    (tmp_path / "ending_app.py").write_text(ENDING_APP)
    with local_worker(
        settings, shared_redis_url, 1, ["cpu"], tmp_path, app="ending_app", ready_within_s=30
    ) as started:
        yield started
        started.kill()


def test_a_worker_that_ends_gives_back_what_it_has_not_begun(
    ending_worker: LocalWorker,
    runs_by: Callable[[Settings], Runs],
    pipeline_from: PipelineFrom,
    wait_until: WaitUntil,
) -> None:
    runs = runs_by(ending_worker.settings)
    run_id = runs.submit(
        pipeline_from("""
            @step
            def first():
                return 1

            @step
            def second(value):
                return value

            @pipeline
            def handed():
                second(first())
        """)
    )

    wait_until(lambda: not ending_worker.alive())

    assert runs.ledger.states(run_id)["first"][0] == "queued"
    assert queue_length(runs.ledger.client, ending_worker.settings.queue_of()) == 1
