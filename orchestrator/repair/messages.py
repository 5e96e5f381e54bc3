"""Messages of queued steps that are gone: which are missing, since when, and sending them again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

from orchestrator.attempt_id import AttemptId
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.values import DueReport, Ready, WaitingList
from orchestrator.messages.queues import attempt_in, entries, list_key, lying_in
from orchestrator.repair.contact import Contact
from orchestrator.settings.model import Settings

logger = logging.getLogger(__name__)

SETTLED_S = 1.0  # a message sent later than this ago may still be on its way
HEAD_MESSAGES = 50  # looked at from the head of a list, until one is found that counts
MISSING_MESSAGES = 10_000  # of one list that are looked for at a time


class MessageRepair:
    """What one coordinator knows from look to look: since when it misses what."""

    def __init__(
        self,
        ledger: Ledger,
        settings: Settings,
        contact: Contact,
        on_loss: Callable[[str, str], object],
    ) -> None:
        """`on_loss` is given the run and the queue of each message that is found to be lost."""
        self._ledger, self._settings = ledger, settings
        self._contact, self._on_loss = contact, on_loss
        # run -> attempt -> missed since
        self._missing: dict[str, dict[AttemptId, float]] = {}
        # list -> (looked at, when its head was sent)
        self._heads: dict[str, tuple[float, float | None]] = {}

    def forget(self, run_id: str) -> None:
        """Forget what was missing of a run."""
        self._missing.pop(run_id, None)

    def send_again(self, run_id: str, report: DueReport) -> Iterator[Ready]:
        """Look for the messages of queued steps; yield the chains of those that have been missing
        for long enough."""
        before = self._missing.pop(run_id, {})
        missing: dict[AttemptId, float] = {}
        now = time.monotonic()
        for waiting in report.waiting:
            settled_us = report.now_us - round(SETTLED_S * 1e6)
            if waiting.oldest_at_us > settled_us:
                continue
            head_us = self._head_sent_at(waiting, now)
            if head_us is None or waiting.oldest_at_us > head_us - SETTLED_S * 1e6:
                continue
            limit_us = min(settled_us, head_us - SETTLED_S * 1e6)
            # when it was sent last, and for how long it is missing
            overdue: dict[AttemptId, tuple[int, float]] = {}
            for step, number, sent_at_us in self._ledger.queued_before(
                run_id, waiting.queue, waiting.level, int(limit_us), MISSING_MESSAGES
            ):
                attempt = AttemptId(run_id, step, number)
                since = missing[attempt] = before.get(attempt, now)
                if (
                    now - max(since, self._contact.steady_since)
                    >= self._settings.message_lost_after_s
                ):
                    overdue[attempt] = sent_at_us, now - since
                    del missing[attempt]
            if not overdue:
                continue
            what, there = "is empty", set[AttemptId]()
            if head_us != float("inf"):
                # One that was given back, or sent while others were, may lie behind younger ones.
                what = "holds younger messages only"
                lists = self._settings.list_of(waiting.queue)
                there = lying_in(self._ledger.client, lists, waiting.level, overdue)
            for attempt in overdue.keys() - there:
                sent_at_us, for_s = overdue[attempt]
                found = f"queue {waiting.queue} {what}, and no worker has begun for {for_s:.1f} s"
                chains = self._ledger.resend(attempt, sent_at_us, {"found": found})
                if chains:
                    self._on_loss(run_id, waiting.queue)
                    logger.warning(
                        "run %s: the message of step %s is lost, it is sent again: %s",
                        run_id,
                        attempt.step,
                        found,
                    )
                yield chains
        if missing:
            self._missing[run_id] = missing

    def _head_sent_at(self, waiting: WaitingList, now: float) -> float | None:
        """Return when (µs) the message at the head of a broker's list was sent: inf when the list
        is empty, None when no message near the head counts any more."""
        key = list_key(self._settings.list_of(waiting.queue), waiting.level)
        looked_at, head_us = self._heads.get(key, (0.0, None))
        if now - looked_at > self._settings.poll_interval_s / 2:
            head_us = self._look_at_head(key, waiting)
            self._heads[key] = now, head_us
        return head_us

    def _look_at_head(self, key: str, waiting: WaitingList) -> float | None:
        raw = entries(self._ledger.client, key, -HEAD_MESSAGES, -1)
        for text in reversed(raw):
            attempt = attempt_in(text)
            if attempt is None:
                continue  # somebody else's message
            sent_at_us = self._ledger.sent_at_us(attempt, waiting.queue, waiting.level)
            if sent_at_us is not None:
                return sent_at_us
        return None if raw else float("inf")
