"""Runs on real workers, followed as a coordinator follows them."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from celery import Celery

from orchestrator.artifacts.outputs import decode_output
from orchestrator.artifacts.values import ArtifactStore
from orchestrator.attempt_id import AttemptId
from orchestrator.definition.pipeline import Pipeline
from orchestrator.ledger.ledger import Ledger
from orchestrator.plan.compile import compile_pipeline
from orchestrator.record.run import RunRecord, read_skeleton
from orchestrator.runs.submission import submit
from orchestrator.runs.visiting import Visitor
from orchestrator.settings.model import Settings

LIMIT_S = 120.0


class Runs:
    """Submits pipelines to the queues that `settings` name, and follows them as a coordinator
    does."""

    def __init__(self, settings: Settings, ledger: Ledger, app: Celery) -> None:
        self.settings, self.ledger, self.app = settings, ledger, app
        self._visitor = Visitor(ledger, app, settings)
        self._store = ArtifactStore.in_folder(settings.artifact_root)

    def submit(self, pipeline: Pipeline) -> str:
        return submit(compile_pipeline(pipeline), self.ledger, self.app, self.settings)

    def run(self, pipeline: Pipeline, within_s: float = LIMIT_S) -> RunRecord:
        """Return the record of a new run at its end."""
        return self.wait(self.submit(pipeline), within_s=within_s)

    def wait(
        self,
        run_id: str,
        until: Callable[[RunRecord], object] = lambda record: record.state.is_ended,
        within_s: float = LIMIT_S,
    ) -> RunRecord:
        """Return the record of a run once the condition holds; due retries are sent off
        meanwhile."""
        record, after = read_skeleton(self.ledger, run_id), "0"
        limit = time.monotonic() + within_s
        while not until(record):
            assert time.monotonic() < limit, f"not within {within_s} s: {states_in(record)}"
            if events := self.ledger.wait_for_events(run_id, after, 0.1):
                after = events[-1].id
                record.apply(events)
            self._visitor.visit(run_id)
        record.outputs = self.ledger.outputs(run_id)
        return record

    def value(self, record: RunRecord, step: str) -> Any:
        """Return a step's output as another step would get it."""
        return decode_output(record.outputs.get(step, ""), self._store)

    def log(self, record: RunRecord, step: str, attempt: int = 1) -> list[str]:
        return self.ledger.log_lines(AttemptId(record.run_id, step, attempt))


def states_in(record: RunRecord) -> dict[str, str]:
    return {name: step.state.value for name, step in record.steps.items()}


OwnWorker = Callable[..., AbstractContextManager[Runs]]  # of a number of slots, and settings
