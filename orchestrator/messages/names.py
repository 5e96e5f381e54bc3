"""The names of our two Celery tasks, as they stand in messages."""

from __future__ import annotations

STEP_TASK = "pipeline.step"
FAILURE_TASK = "pipeline.failure"
