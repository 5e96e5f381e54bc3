"""The one Celery app: workers, coordinator, CLI and Flower all make theirs here.

One factory, because any process with default options sweeps unacked messages by its own visibility timeout.
"""

from __future__ import annotations

from celery import Celery
from kombu.entity import Queue

from orchestrator.messages.transport import Messages
from orchestrator.redis_url import celery_broker_url
from orchestrator.settings import Settings


def create_app(settings: Settings, redis_url: str) -> Celery:
    """Return a Celery app for the server at `redis_url`; nothing is connected yet."""
    app = Celery("orchestrator", broker=celery_broker_url(redis_url), amqp=Messages, set_as_current=False)
    app.conf.update(
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        result_backend=None,
        task_serializer="json",
        accept_content=["json"],
        event_serializer="json",
        # Claim, commit and the ledger own recovery; an early ack leaves nothing to redeliver behind our back.
        task_acks_late=False,
        task_default_queue=settings.queue_of(),
        # No acknowledgements: they would cost a worker's main process half its time, and what they could restore,
        # after visibility_timeout, the ledger knows at once.
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
    """Return the pools' queues; what goes by a former name of one (`Settings.former_queues`) goes to it as well."""
    former = {queue: name for name, queue in settings.former_queues().items()}
    return [Queue(queue, alias=former.get(queue), no_ack=True) for queue in map(settings.queue_of, settings.pools)]
