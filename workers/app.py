"""The Celery app for `celery -A workers.app worker -Q orc.cpu` in a checkout; the code is
`orchestrator.worker`."""

from orchestrator.worker.app import app

__all__ = ["app"]
