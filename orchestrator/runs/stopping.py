"""Waiting until the attempts of cancelled steps are gone."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.values import LeasedAttempt
from orchestrator.repair.contact import steady_contact_s
from orchestrator.repair.repair import Repair
from orchestrator.settings.model import Settings

LOOK_S = 0.1
SLACK_S = 2.0


def stopping_within_s(settings: Settings) -> float:
    """Return the seconds in which every cancelled attempt is gone: stopped by its worker, or its
    lease run out."""
    return settings.lease_s + steady_contact_s(settings) + settings.timeout_grace_s + SLACK_S


def wait_until_stopped(
    ledger: Ledger,
    settings: Settings,
    run_id: str,
    within_s: float,
    *,
    steps: Collection[str] | None = None,
    visit: Callable[[str], object] | None = None,
    is_enough: Callable[[], bool] = lambda: False,
) -> list[LeasedAttempt]:
    """Wait until no attempt of a cancelled step is left; give those that still are, at `within_s`
    or when `is_enough`.

    `steps` are the ones to wait for, all if None. Meanwhile the run is checked, so that the leases
    of workers that died are found to have run out: by `visit`, which a run that goes on needs.
    """
    repair = Repair(ledger, settings)
    limit = time.monotonic() + within_s
    after = ledger.last_event_id(run_id)
    while True:
        left = [
            attempt for attempt in ledger.stopping(run_id) if steps is None or attempt.step in steps
        ]
        if not left or is_enough() or time.monotonic() > limit:
            return left
        if visit is None:
            # a run that has ended has nothing to dispatch
            repair.act_on(run_id, repair.inspect(run_id))
        else:
            visit(run_id)
        if events := ledger.wait_for_events(run_id, after, LOOK_S):
            after = events[-1].id
