"""The one Celery app: workers, coordinator, CLI and Flower all make theirs here.

One factory, because any process with default options sweeps unacked messages by its own visibility
timeout.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NoReturn

import click
from celery import Celery
from celery.loaders.app import AppLoader
from kombu.entity import Queue

from orchestrator.messages.transport import Messages
from orchestrator.redis_url import celery_broker_url
from orchestrator.settings.model import Settings
from orchestrator.settings.sources import current_settings


class PrivateLoader(AppLoader):  # type: ignore[misc]
    """Reads no configuration module."""

    def read_configuration(self, env: str = "") -> dict[str, Any]:
        return {}


class PrivateApp(Celery):  # type: ignore[misc]
    """An app that belongs to this process alone, whatever the environment says for Celery projects
    of the user's.

    Celery lets CELERY_BROKER_URL, CELERY_RESULT_BACKEND, CELERY_LOADER and CELERY_CONFIG_MODULE win
    over what an app was made with, and its Django fix-up puts the working folder first on
    `sys.path` (workers do the rest of what it does: `worker/child/step_process.py`).
    """

    backend_cls = "disabled"

    def __init__(self, broker_url: str) -> None:
        self._own_broker_url = broker_url
        super().__init__(
            "orchestrator",
            broker=broker_url,
            amqp=Messages,
            loader=f"{__name__}:{PrivateLoader.__name__}",
            fixups=[],
            set_as_current=False,
        )

    def connection_for_read(self, url: str | None = None, **options: Any) -> Any:
        return super().connection_for_read(url or self._own_broker_url, **options)

    def connection_for_write(self, url: str | None = None, **options: Any) -> Any:
        return super().connection_for_write(url or self._own_broker_url, **options)


def create_app(settings: Settings, redis_url: str) -> Celery:
    """Return a Celery app for the server at `redis_url`; nothing is connected yet."""
    app = PrivateApp(celery_broker_url(redis_url))
    app.conf.update(
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        result_backend=None,
        task_serializer="json",
        accept_content=["json"],
        event_serializer="json",
        # Claim, commit and the ledger own recovery; an early ack leaves nothing to redeliver behind
        # our back.
        task_acks_late=False,
        task_default_queue=settings.queue_of(),
        # No acknowledgements: they would cost a worker's main process half its time, and what they
        # could restore, after visibility_timeout, the ledger knows at once.
        task_queues=_queues(settings),
        task_create_missing_queues=True,
        task_default_priority=5,
        task_inherit_parent_priority=False,
        task_send_sent_event=False,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_send_task_events=settings.celery_events,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_proc_alive_timeout=30,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_pool_limit=10,
        broker_transport_options={
            "visibility_timeout": settings.visibility_timeout_s,
            "socket_timeout": 30,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 25,
            "queue_order_strategy": "priority",
            "global_keyprefix": settings.broker_key_prefix,
        },
        timezone="UTC",
        enable_utc=True,
    )
    return app


def _queues(settings: Settings) -> list[Queue]:
    """Return the pools' queues; what goes by a former name of one (`Settings.former_queues`) goes
    to it as well."""
    former = {queue: name for name, queue in settings.former_queues().items()}
    return [
        Queue(queue, alias=former.get(queue), no_ack=True)
        for queue in map(settings.queue_of, settings.pools)
    ]


def run_command(app: Celery, command: click.Command, arguments: Sequence[str]) -> NoReturn:
    """Run a command of Celery's or Flower's with an app, and exit with its code.

    Not through the group `celery`, which takes its app, broker and configuration from APP,
    BROKER_URL, CONFIG_MODULE, … of the environment.
    """
    from celery.bin.base import CLIContext
    from celery.bin.celery import celery

    is_quiet = current_settings().log_format == "json"  # no banner
    context = CLIContext(
        app=app, no_color=bool(os.environ.get("NO_COLOR")), workdir=None, quiet=is_quiet
    )
    parent = click.Context(celery, info_name="celery", obj=context)
    command.main(args=list(arguments), prog_name=command.name, parent=parent)
    raise AssertionError("click exits")
