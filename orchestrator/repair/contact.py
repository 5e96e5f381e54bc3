"""Since when the server answers a coordinator as it should, and what its clock should show."""

from __future__ import annotations

import time

from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.server_clock import ServerClock
from orchestrator.settings.model import Settings

SLOW_CALL_S = 1.0
LONG_GAP_S = 3.0
CLOCK_STEP_S = 1.0


def steady_contact_s(settings: Settings) -> float:
    """Return for how long the server must have answered before a lease is judged: workers have
    renewed by then."""
    return 1.25 * settings.renewal_interval_s


class Contact:
    """What one coordinator knows from call to call of the server."""

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self._settings = settings
        self.steady_since = self._last_contact = time.monotonic()
        self._server_ahead_s = 0.0  # of our monotonic clock
        self.clock = ServerClock(ledger.client, ledger.prefix)

    @property
    def is_calm(self) -> bool:
        """Whether leases can be judged: while the server was away nobody could renew."""
        return time.monotonic() - self.steady_since >= steady_contact_s(self._settings)

    def look_at_clock(self) -> None:
        """Look whether the server's clock was put, unless that was seen just now. To be done even
        while no run is active: two steps of the clock that lie between two looks are seen as one,
        of their sum."""
        poll_s = self._settings.poll_interval_s
        try:
            self.clock.look(at_most_every_s=poll_s / 2, away_after_s=max(LONG_GAP_S, 3 * poll_s))
        except Exception:
            self.note_failure()
            raise

    def note_failure(self) -> None:
        """Note that a call got no answer."""
        self.steady_since = time.monotonic()

    def note_contact(self, began: float, server_us: int) -> None:
        """Note that a call which began at `began` (monotonic) was answered, at `server_us` by the
        server's clock.

        A clock that is put forward ends leases before their time, which their workers can renew at
        once.
        """
        now = time.monotonic()
        ahead_s = server_us / 1e6 - now
        if ahead_s - self._server_ahead_s > CLOCK_STEP_S:
            self.steady_since = now
        self._server_ahead_s = ahead_s
        longest_gap_s = max(LONG_GAP_S, 3 * self._settings.poll_interval_s)
        # What a slow call, or one that was refused and made again, takes away from a lease must
        # leave time to renew it.
        slow_call_s = min(SLOW_CALL_S, self._settings.lease_s / 3)
        if now - began > slow_call_s or began - self._last_contact > longest_gap_s:
            self.steady_since = now
        self._last_contact = now
