"""The Celery app of the workers; in a checkout `workers.app` shows it to `celery -A`."""

from __future__ import annotations

import logging
import sys
from functools import partial
from typing import Any

import celery.apps.worker
from celery import Celery
from celery.signals import after_setup_logger, after_setup_task_logger, worker_process_init

from orchestrator.errors import SettingsInvalid
from orchestrator.log_format import format_all, say, set_up_logging
from orchestrator.messages.app import create_app
from orchestrator.settings.sources import current_settings, withdraw_secrets
from orchestrator.worker.celery_inside.consumer import StepConsumer
from orchestrator.worker.celery_inside.events import EventBatches
from orchestrator.worker.celery_inside.requests import GivingBack
from orchestrator.worker.child.step_process import prepare_for_steps
from orchestrator.worker.main.draining import Draining
from orchestrator.worker.main.health import Health
from orchestrator.worker.main.keeping import keep_what_is_not_ours
from orchestrator.worker.main.leases import Leases
from orchestrator.worker.main.presence import Presence
from orchestrator.worker.main.refusals import connect_refusals
from orchestrator.worker.process import broker_url
from orchestrator.worker.set_up import connect_signals
from orchestrator.worker.tasks import register_tasks


def _make_app() -> Celery:
    withdraw_secrets()
    made = create_app(current_settings(), broker_url())
    made.set_current()
    # in threads too, the current app is not one that is made from a celeryconfig.py
    made.set_default()
    made.conf.worker_consumer = f"{StepConsumer.__module__}:{StepConsumer.__name__}"
    register_tasks(made)
    connect_refusals()  # before anything is started
    keep_what_is_not_ours(current_settings())
    connect_signals()
    worker_process_init.connect(partial(_prepare_child, made), weak=False)
    if current_settings().log_format == "json":
        # until Celery does; children format as their worker does
        set_up_logging("json", current_settings().log_level)
        celery.apps.worker.safe_say = say
        after_setup_logger.connect(format_all)
        after_setup_task_logger.connect(format_all)
    made.steps["worker"].add(Presence)
    made.steps["worker"].add(Leases)
    made.steps["worker"].add(Health)
    made.steps["worker"].add(Draining)
    made.steps["consumer"].add(EventBatches)
    made.steps["consumer"].add(GivingBack)
    if current_settings().log_level != "DEBUG":
        for name in (
            "celery.worker.strategy",
            "celery.app.trace",
        ):
            # two lines a step, which the record says better
            logging.getLogger(name).setLevel(logging.WARNING)
    return made


def _prepare_child(app: Celery, **_: Any) -> None:
    prepare_for_steps(app)


try:
    app = _make_app()
except SettingsInvalid as fault:
    print(f"{type(fault).__name__}: {fault}", file=sys.stderr)
    raise SystemExit(2) from None  # Celery would show any other error with its traceback
