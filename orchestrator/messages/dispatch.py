"""Sending chains to the queues."""

from __future__ import annotations

from collections.abc import Sequence

from celery import Celery

from orchestrator.ledger.values import Chain
from orchestrator.messages.signatures import chain_signature, publish

BATCH_MESSAGES = 500


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
