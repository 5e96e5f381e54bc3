"""Sending chains to the queues."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from orchestrator.ledger.values import Chain
from orchestrator.messages.signatures import chain_signature, publish

BATCH_MESSAGES = 500


logger = logging.getLogger(__name__)


def dispatch_or_leave(app: Celery, run_id: str, pipeline: str, chains: Sequence[Chain]) -> None:
    """Publish the chains of a run that has begun already; if they cannot be sent, coordinators find them missing."""
    try:
        dispatch(app, run_id, pipeline, chains)
    except (OperationalError, RedisError, OSError) as error:
        logger.warning("run %s goes on, but no message could be sent: %s. A coordinator will do it.", run_id, error)


def dispatch(app: Celery, run_id: str, pipeline: str, chains: Sequence[Chain]) -> None:
    """Publish the chains, several in one batch, in order.

    A message is only a hint: publishing one twice is harmless, and one that is lost leaves its step `queued`.
    """
    if not chains:
        return
    with app.producer_or_acquire() as producer:
        if len(chains) == 1:
            publish(chain_signature(app, run_id, pipeline, chains[0]), producer)
            return
        with producer.batch(max_size=BATCH_MESSAGES):
            for links in chains:
                publish(chain_signature(app, run_id, pipeline, links), producer)
