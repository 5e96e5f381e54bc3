"""Sending chains to the queues."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from celery import Celery
from kombu.exceptions import BatchPublishError

from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.values import Chain, Ready
from orchestrator.messages.signatures import chain_signature, publish

BATCH_MESSAGES = 500

logger = logging.getLogger(__name__)


class Dispatcher:
    """Sends what the ledger says is ready. Everybody who gets chains from the ledger sends them."""

    def __init__(self, app: Celery, ledger: Ledger) -> None:
        self._app, self._ledger = app, ledger

    def send(self, run_id: str, ready: Ready) -> bool:
        """Publish the chains, several in one batch, in order; where the ledger has left more in the
        front of the run, go on with that, page by page. Return whether all were sent.

        One rule for all who send, for whatever reason they do: a message is a hint, and sending
        never raises. What is sent was made ready by a change that is in the ledger already, so the
        caller that made that change (submit, resume, cancel, a worker, a coordinator) is answered
        as if it had been sent. Whatever the sending raises (kombu's or redis-py's errors, a broken
        pool, no route to the host) is logged; its steps stay `queued`, and coordinators find that
        their messages are missing. A message that is sent twice does no harm. What stands in the
        front is left to the coordinators in the same way.
        """
        is_sent = self._send(run_id, ready)
        while ready.has_more:
            try:
                ready = self._ledger.go_on(run_id)
            except Exception as error:
                logger.warning(
                    "run %s goes on, but what it has to start could not be read: %s: %s. A"
                    " coordinator will go on.",
                    run_id,
                    type(error).__name__,
                    error,
                )
                return False
            is_sent = self._send(run_id, ready) and is_sent
        return is_sent

    def _send(self, run_id: str, ready: Ready) -> bool:
        try:
            try:
                self._publish(run_id, ready)
            except BatchPublishError:
                # kombu repeats single calls when their connection broke, but no batches
                self._publish(run_id, ready)
        except Exception as error:
            logger.warning(
                "run %s goes on, but its messages could not be sent: %s: %s. A coordinator will "
                "send them.",
                run_id,
                type(error).__name__,
                error,
            )
            return False
        return True

    def _publish(self, run_id: str, chains: Sequence[Chain]) -> None:
        if not chains:
            return
        with self._app.producer_or_acquire() as producer:
            if len(chains) == 1:
                publish(chain_signature(self._app, run_id, chains[0]), producer)
                return
            with producer.batch(max_size=BATCH_MESSAGES):
                for chain in chains:
                    publish(chain_signature(self._app, run_id, chain), producer)
