"""Following one run to its end, and doing what is due in it meanwhile, so that it needs no
coordinator."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Protocol

from orchestrator.installation import Installation
from orchestrator.ledger.details import Ended
from orchestrator.ledger.events import RUN_ENDS, Event, EventKind
from orchestrator.ledger.presence import (
    SIGN_OF_LIFE_S,
    announce_coordinator,
    own_card,
    withdraw_coordinator,
)
from orchestrator.local.worker import LocalWorker
from orchestrator.record.run import RunRecord
from orchestrator.runs.surroundings import Unserved, unserved_steps
from orchestrator.runs.visiting import ALERTS_LIMIT_S, LEAST_PAUSE_S, Visitor

POOLS_LOOK_S = 2.0
EVENTS_PAUSE_S = 0.05
FIRST_LOOK_S = 0.5
LOCAL_START_S = 10.0  # a worker of our own that is just starting needs no warning


class Screen(Protocol):
    """Shows what happens to a run."""

    def show(self, events: Sequence[Event]) -> None:
        """Show events, which the record knows already."""

    def show_unserved(self, unserved: Sequence[Unserved]) -> None:
        """Show for which pools steps wait that no worker serves; none if all are served."""

    def warn(self, text: str) -> None:
        """Show a sentence about something unexpected."""

    def look(self) -> None:
        """Look for what no event says; called a few times a second."""


def follow(
    installation: Installation,
    record: RunRecord,
    screen: Screen,
    local: LocalWorker | None,
    after: str = "0",
    within_s: float = math.inf,
) -> None:
    """Follow a run until it has ended. Raises LocalWorkerError when workers of our own cannot be
    started again, and TimeoutError when it has not ended `within_s` seconds.

    `record` takes in its events behind `after`. `local` are workers of our own, which are started
    again when they die.
    """
    ledger, run_id = installation.ledger, record.run_id
    visitor = Visitor(ledger, installation.app, installation.settings, is_follower=True)
    card, began = own_card(), time.monotonic()
    poll_s = installation.settings.poll_interval_s
    next_visit, next_sign, next_look = (
        began,
        began,
        began + (LOCAL_START_S if local else FIRST_LOOK_S),
    )
    is_ended = False  # a run that is resumed had ended before
    while not is_ended:
        left_s = began + within_s - time.monotonic()
        pause_s = min(poll_s, left_s, next_visit - time.monotonic())
        pause_s = max(LEAST_PAUSE_S, pause_s)
        if events := ledger.wait_for_events(run_id, after, pause_s):
            after = events[-1].id
            record.apply(events)
            is_ended = record.state.is_ended and any(event.kind in RUN_ENDS for event in events)
            screen.show(events)
            next_visit = min(
                [next_visit, *(time.monotonic() + delay_s for delay_s in _retries_s(events))]
            )
            if not is_ended:
                # read events together: one by one they would cost a core that steps need
                time.sleep(EVENTS_PAUSE_S)
        else:
            screen.look()
        now = time.monotonic()
        if now - began > within_s:
            raise TimeoutError(f"run {run_id} has not ended within {within_s:g} s")
        if now >= next_visit:
            next_visit = now + visitor.visit(run_id)
            if local and not local.alive():
                _start_again(local, visitor, run_id, screen)
        if now >= next_sign:
            next_sign = now + SIGN_OF_LIFE_S
            announce_coordinator(ledger.client, ledger.prefix, card, run_id)
        if now >= next_look:
            next_look = now + POOLS_LOOK_S
            screen.show_unserved(unserved_steps(ledger, record.steps))
    withdraw_coordinator(ledger.client, ledger.prefix, card, run_id)
    visitor.visit(run_id)  # nobody has to watch it any more, or the first alerts are sent


def finish_alerts(installation: Installation, run_id: str) -> bool:
    """Wait, but not for long, until the alerts of a failed run are sent. Return False when some are
    left to others."""
    visitor = Visitor(
        installation.ledger, installation.app, installation.settings, is_follower=True
    )
    if visitor.leaves_alerts:
        return True
    limit = time.monotonic() + ALERTS_LIMIT_S
    while (is_watched := run_id in installation.ledger.active_runs()) and (
        left_s := limit - time.monotonic()
    ) > 0:
        pause_s = visitor.visit(run_id)
        visitor.finish_alerts(left_s)
        visitor.visit(run_id)  # nobody has to watch the run any more when no alert is left
        time.sleep(min(pause_s, left_s))
    return not is_watched


def _retries_s(events: Sequence[Event]) -> list[float]:
    """Return after how many seconds the retries are due that the events report."""
    retries = (event for event in events if event.kind is EventKind.STEP_RETRYING)
    dues = [
        (retry.detail.due_at, retry.at_us) for retry in retries if isinstance(retry.detail, Ended)
    ]
    return [(due_at - at_us) / 1e6 for due_at, at_us in dues if due_at]


def _start_again(local: LocalWorker, visitor: Visitor, run_id: str, screen: Screen) -> None:
    died = local.end_remains()
    screen.warn(
        f"local worker {local.name} {died}: it is started again (its log: {local.log_path})"
    )
    visitor.take_over_from(run_id, local.worker_id, died)
    local.start_again()
