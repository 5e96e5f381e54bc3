"""Sending chains to the queues. The one rule of all who send, for whatever reason they do:

A message is a hint, and sending never fails. What is sent was made ready by a change that is in the
ledger already, so whoever asked for that change (submit, resume, cancel, a worker, a coordinator)
is answered as if it had been sent. Whatever the sending raises (kombu's or redis-py's errors, a
broken pool, no route to the host) is logged; its steps stay `queued` and coordinators find their
messages missing. A message that was sent twice is harmless.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from celery import Celery
from kombu.exceptions import BatchPublishError

from orchestrator.ledger.reads import LedgerReads
from orchestrator.ledger.values import Chain
from orchestrator.messages.signatures import chain_signature, publish

BATCH_MESSAGES = 500


logger = logging.getLogger(__name__)


def dispatch(app: Celery, run_id: str, pipeline: str, chains: Sequence[Chain]) -> bool:
    """Publish the chains, several in one batch, in order. Return whether all were sent; nothing is
    raised."""
    try:
        try:
            _publish(app, run_id, pipeline, chains)
        except BatchPublishError:
            # kombu makes single calls again when their connection broke, but not batches
            _publish(app, run_id, pipeline, chains)
    except Exception as error:
        _log_failure(run_id, error)
        return False
    return True


def dispatch_ready(app: Celery, ledger: LedgerReads, run_id: str, chains: Sequence[Chain]) -> bool:
    """Publish the chains as `dispatch` does, for those who do not know the name of the run's
    pipeline."""
    if not chains:
        return True
    try:
        pipeline = ledger.run_fields(run_id)["pipeline"]
    except Exception as error:
        _log_failure(run_id, error)
        return False
    return dispatch(app, run_id, pipeline, chains)


def _publish(app: Celery, run_id: str, pipeline: str, chains: Sequence[Chain]) -> None:
    if not chains:
        return
    with app.producer_or_acquire() as producer:
        if len(chains) == 1:
            publish(chain_signature(app, run_id, pipeline, chains[0]), producer)
            return
        with producer.batch(max_size=BATCH_MESSAGES):
            for links in chains:
                publish(chain_signature(app, run_id, pipeline, links), producer)


def _log_failure(run_id: str, error: Exception) -> None:
    text = f"{type(error).__name__}: {error}"
    logger.warning(
        "run %s goes on, but its messages could not be sent: %s. A coordinator will do it.",
        run_id,
        text,
    )
