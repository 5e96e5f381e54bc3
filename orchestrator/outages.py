"""What is logged while something is away: one line when it goes, one when it is back, and none
between.

A round that is tried again twice a second would else fill a log with the same traceback.
"""

from __future__ import annotations

import logging
import time

from redis.exceptions import ConnectionError, TimeoutError

from orchestrator.refusals import ServerRefuses

EXPECTED = (
    ConnectionError,
    TimeoutError,
    OSError,
)  # of a server that is away: reported in a sentence


class Outage:
    """One thing that may be away. `failing` says what cannot be done meanwhile, as "leases cannot
    be renewed"."""

    def __init__(self, logger: logging.Logger, failing: str) -> None:
        self._logger, self._failing = logger, failing
        self._kind = ""
        self._since = 0.0

    @property
    def is_on(self) -> bool:
        return bool(self._kind)

    def begins(self, error: BaseException) -> None:
        """Note that it failed. Logged is a change alone: that it fails now, or in another way than
        before."""
        kind = _kind_of(error)
        if kind == self._kind:
            return
        if not self._kind:
            self._since = time.monotonic()
        self._kind = kind
        if isinstance(error, EXPECTED):
            self._logger.warning("%s: %s; it is tried again", self._failing, error)
        else:
            self._logger.error("%s; it is tried again", self._failing, exc_info=error)

    def is_over(self) -> None:
        """Note that it worked."""
        if self._kind:
            self._kind = ""
            self._logger.warning(
                "over after %.1f s: %s", time.monotonic() - self._since, self._failing
            )


def _kind_of(error: BaseException) -> str:
    if isinstance(error, ServerRefuses):
        return "refuses"
    return "away" if isinstance(error, EXPECTED) else type(error).__name__
