"""The safety net: leases that ran out, and messages that are gone. Every repair is an event that says what was found.

Nothing here decides by itself. What looks lost is told to the ledger, which knows whether it still is; so any number of
coordinators may look at the same time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.presence import last_sign_of_life
from orchestrator.ledger.server_clock import ServerClock
from orchestrator.ledger.values import Chain, ExpiredLease, Replaced, Tended, WaitingList
from orchestrator.messages.queues import Named, entries, list_key, lying_in, named_in
from orchestrator.settings.model import Settings

logger = logging.getLogger(__name__)

SETTLED_S = 1.0  # a message sent later than this ago may still be on its way
HEAD_MESSAGES = 50  # looked at from the head of a list, until one is found that counts
MISSING_MESSAGES = 10_000  # of one list that are looked for at a time
SLOW_CALL_S = 1.0
LONG_GAP_S = 3.0
CLOCK_STEP_S = 1.0


def calm_s(settings: Settings) -> float:
    """Give how long the server must have answered before a lease is judged: every living worker has renewed by then."""
    return 1.25 * settings.renewal_interval_s


class Repair:
    """What one coordinator knows from look to look: since when the server answers it, and since when it misses what."""

    def __init__(
        self, ledger: Ledger, settings: Settings, on_loss: Callable[[str, str], object] = lambda run_id, queue: None
    ) -> None:
        """`on_loss` is told the run and the queue of each message that is found to be lost."""
        self._on_loss = on_loss
        self._ledger = ledger
        self._settings = settings
        self._calm_since = self._last_contact = time.monotonic()
        self._server_ahead_s = 0.0  # of our monotonic clock
        self._clock = ServerClock(ledger.client, ledger.prefix)
        self._pardoned: dict[str, int] = {}  # run -> the last absence of the server that it knows of
        self._missing: dict[str, dict[tuple[str, int], float]] = {}  # run -> (step, attempt) -> missed since
        self._heads: dict[str, tuple[float, float | None]] = {}  # list -> (looked at, when its head was sent)

    def look_at_clock(self) -> None:
        """Look whether the server's clock was put, unless that was seen just now. To be done even while no run is
        active: two steps of the clock that lie between two looks are seen as one, of their sum."""
        poll_s = self._settings.poll_interval_s
        try:
            self._clock.look(at_most_every_s=poll_s / 2, away_after_s=max(LONG_GAP_S, 3 * poll_s))
        except Exception:
            self._calm_since = time.monotonic()
            raise

    def tend(self, run_id: str) -> Tended:
        """Do what is due in a run, and note whether the server answers as it should; `mend` is to follow."""
        began, clock = time.monotonic(), self._clock
        self.look_at_clock()
        try:
            is_pardoned = self._pardoned.get(run_id, 0) == clock.absences
            tended = self._ledger.tend(
                run_id,
                expected_us=clock.expected_us(),
                clock_step=clock.last_step,
                away_s=0.0 if is_pardoned else clock.away_s,
            )
            if tended.is_judged:
                self._pardoned[run_id] = clock.absences
            for step in clock.steps:
                if step.number > tended.clock_step and self._ledger.shift(run_id, step, self._settings.lease_s):
                    logger.warning("run %s: its times were shifted by %.1f s", run_id, step.by_us / 1e6)
        except Exception:
            self._calm_since = time.monotonic()
            raise
        self.note_contact(began, tended.now_us)
        return tended

    def note_contact(self, began: float, server_us: int) -> None:
        """Note that a call which began at `began` (monotonic) was answered, at `server_us` by the server's clock.

        A clock that is put forward ends leases before their time, which their workers can renew at once.
        """
        now = time.monotonic()
        ahead_s = server_us / 1e6 - now
        if ahead_s - self._server_ahead_s > CLOCK_STEP_S:
            self._calm_since = now
        self._server_ahead_s = ahead_s
        longest_gap_s = max(LONG_GAP_S, 3 * self._settings.poll_interval_s)
        # What a slow call, or one that was refused and made again, takes away from a lease must leave time to renew it.
        slow_call_s = min(SLOW_CALL_S, self._settings.lease_s / 3)
        if now - began > slow_call_s or began - self._last_contact > longest_gap_s:
            self._calm_since = now
        self._last_contact = now

    def mend(self, run_id: str, tended: Tended) -> tuple[Chain, ...]:
        """Look into what `tend` found in a run, and give the chains to dispatch."""
        chains: list[Chain] = []
        # While the server was away nobody could renew.
        if time.monotonic() - self._calm_since >= calm_s(self._settings):
            for lease in tended.expired:
                chains += self._take_over(run_id, lease, tended.now_us)
        chains += self._send_again(run_id, tended)
        return tuple(chains)

    def take_over_from(self, run_id: str, worker: str, died: str) -> Iterator[Chain]:
        """Have others go on with what a worker ran that is known to be gone, before its leases run out; `died` tells of
        what: "was killed by signal 9 (SIGKILL)". No other worker of that name may have begun anything yet."""
        message = f"its worker {worker} {died}"
        detail = {"error": {"type": "WorkerLost", "message": message, "traceback": ""}, "found": message}
        for it in self._ledger.leased(run_id):
            if it.worker == worker and not it.is_stopping:
                answer = self._ledger.report_lost(run_id, it.step, it.attempt, detail, owner=worker)
                if isinstance(answer, Replaced):
                    yield from answer.ready

    def forget(self, run_id: str) -> None:
        self._missing.pop(run_id, None)
        self._pardoned.pop(run_id, None)

    def _take_over(self, run_id: str, lease: ExpiredLease, now_us: int) -> tuple[Chain, ...]:
        kind, message = self._cause(lease)
        found = f"the lease of worker {lease.worker} ran out {(now_us - lease.expired_at_us) / 1e6:.1f} s ago"
        detail = {"error": {"type": kind, "message": message, "traceback": ""}, "found": found}
        answer = self._ledger.report_lost(
            run_id, lease.step, lease.attempt, detail, expected_us=self._clock.expected_us()
        )
        if not isinstance(answer, Replaced) or lease.is_stopping:
            return ()  # it was renewed, or another coordinator was faster; or nobody goes on with it
        logger.warning("run %s: attempt %d of step %s is lost: %s", run_id, lease.attempt, lease.step, message)
        return answer.ready

    def _cause(self, lease: ExpiredLease) -> tuple[str, str]:
        lease_s = self._settings.lease_s
        sign = last_sign_of_life(self._ledger.client, self._ledger.prefix, lease.worker)
        renewed = lease.expired_at_us / 1e6 - lease_s
        if sign is not None and sign[1].incarnation not in ("", lease.incarnation):
            return "WorkerLost", f"its worker {lease.worker} ended in the middle of it and was started again"
        if sign is not None and sign[0] > renewed + lease_s / 2:
            return (
                "WorkerHung",
                f"its worker {lease.worker} hangs: it lives, and has not renewed the lease for {lease_s:g} s",
            )
        return "HostLost", f"its worker {lease.worker} is gone: host lost, no sign of life for {lease_s:g} s"

    def _send_again(self, run_id: str, tended: Tended) -> Iterator[Chain]:
        before = self._missing.pop(run_id, {})
        missing: dict[tuple[str, int], float] = {}
        now = time.monotonic()
        for waiting in tended.waiting:
            settled_us = tended.now_us - round(SETTLED_S * 1e6)
            if waiting.oldest_at_us > settled_us:
                continue
            head_us = self._head_sent_at(waiting, now)
            if head_us is None or waiting.oldest_at_us > head_us - SETTLED_S * 1e6:
                continue
            limit_us = min(settled_us, head_us - SETTLED_S * 1e6)
            overdue: dict[Named, tuple[int, float]] = {}  # when it was sent last, and for how long it is missing
            for step, attempt, sent_at_us in self._ledger.queued_before(
                run_id, waiting.queue, waiting.level, int(limit_us), MISSING_MESSAGES
            ):
                since = missing[step, attempt] = before.get((step, attempt), now)
                if now - max(since, self._calm_since) >= self._settings.message_lost_after_s:
                    overdue[Named(run_id, step, attempt)] = sent_at_us, now - since
                    del missing[step, attempt]
            if not overdue:
                continue
            what, there = "is empty", set[Named]()
            if head_us != float("inf"):
                # One that was given back, or sent while others were, may lie behind younger ones.
                what = "holds younger messages only"
                lists = self._settings.list_of(waiting.queue)
                there = lying_in(self._ledger.client, lists, waiting.level, overdue)
            for named in overdue.keys() - there:
                sent_at_us, for_s = overdue[named]
                found = f"queue {waiting.queue} {what}, and no worker has begun for {for_s:.1f} s"
                chains = self._ledger.resend(run_id, named.step, named.attempt, sent_at_us, {"found": found})
                if chains:
                    self._on_loss(run_id, waiting.queue)
                    logger.warning("run %s: the message of step %s is lost, it is sent again: %s", *named[:2], found)
                yield from chains
        if missing:
            self._missing[run_id] = missing

    def _head_sent_at(self, waiting: WaitingList, now: float) -> float | None:
        """Give when (µs) the message at the head of a broker's list was sent: inf when the list is empty, None when no
        message near the head counts any more."""
        key = list_key(self._settings.list_of(waiting.queue), waiting.level)
        looked_at, head_us = self._heads.get(key, (0.0, None))
        if now - looked_at > self._settings.poll_interval_s / 2:
            head_us = self._look_at_head(key, waiting)
            self._heads[key] = now, head_us
        return head_us

    def _look_at_head(self, key: str, waiting: WaitingList) -> float | None:
        raw = entries(self._ledger.client, key, -HEAD_MESSAGES, -1)
        for text in reversed(raw):
            named = named_in(text)
            if named is None:
                continue  # somebody else's message
            sent_at_us = self._ledger.sent_at_us(named.run_id, waiting.queue, waiting.level, named.step, named.attempt)
            if sent_at_us is not None:
                return sent_at_us
        return None if raw else float("inf")
