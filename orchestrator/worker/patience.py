"""Waiting for the server with finished work in hand."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from redis.exceptions import ConnectionError, TimeoutError

from orchestrator.outages import Outage

logger = logging.getLogger(__name__)

T = TypeVar("T")


def until_answered(call: Callable[[], T]) -> T:
    """Return what a call of the ledger answers, however long the server is away: it records
    finished work.

    Who must not wait for so long is ended from outside, as by the draining of its worker.
    """
    outage = Outage(logger, "what a step has come to cannot be recorded yet")
    while True:
        try:
            answer = call()
        except (ConnectionError, TimeoutError) as error:
            outage.begins(error)
        else:
            outage.is_over()
            return answer
