"""Waiting for the server with finished work in hand."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from redis.exceptions import ConnectionError, TimeoutError

logger = logging.getLogger(__name__)

T = TypeVar("T")


def until_answered(call: Callable[[], T]) -> T:
    """Return what a call of the ledger answers, however long the server is away: it records finished work.

    Who must not wait for so long is ended from outside, as by the draining of its worker.
    """
    while True:
        try:
            return call()
        except (ConnectionError, TimeoutError) as error:
            logger.warning("what a step has come to cannot be recorded yet, it is tried on: %s", error)
