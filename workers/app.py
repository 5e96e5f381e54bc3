"""The Celery app of the workers: `celery -A workers.app worker -Q cpu`."""

from __future__ import annotations

import logging
import sys

from celery import Celery

from orchestrator.definition.faults import SettingsInvalid
from orchestrator.messages.app import create_app
from orchestrator.settings import settings
from workers.consumer import StepConsumer
from workers.draining import Draining
from workers.events import EventBatches
from workers.leases import Leases
from workers.presence import Presence
from workers.process import broker_url
from workers.requests import GivingBack
from workers.strays import connect_signals
from workers.tasks import register_tasks


def _make_app() -> Celery:
    made = create_app(settings(), broker_url())
    made.set_current()
    made.conf.worker_consumer = f"{StepConsumer.__module__}:{StepConsumer.__name__}"
    register_tasks(made)
    connect_signals()
    made.steps["worker"].add(Presence)
    made.steps["worker"].add(Leases)
    made.steps["worker"].add(Draining)
    made.steps["consumer"].add(EventBatches)
    made.steps["consumer"].add(GivingBack)
    if settings().log_level != "DEBUG":
        for name in ("celery.worker.strategy", "celery.app.trace"):  # two lines a step, which the record tells better
            logging.getLogger(name).setLevel(logging.WARNING)
    return made


try:
    app = _make_app()
except SettingsInvalid as fault:
    print(f"{type(fault).__name__}: {fault}", file=sys.stderr)
    raise SystemExit(2) from None  # Celery would show any other error with its traceback
