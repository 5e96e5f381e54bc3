"""A run under an unkind network: workers that die, hang or give up, messages that are lost,
doubled, late and out of order, people who cancel and resume.

Everything is done to the real ledger and to its model, and after every operation the two must be
the same. Whatever may be said twice sometimes is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf

from orchestrator.attempt_id import AttemptId
from orchestrator.ledger.values import (
    OwnedAttempt,
)
from tests.support.network.fates import NO_TIME_S
from tests.support.network.people import People
from tests.support.network.workers import Workers


class Network(Workers, People):
    """A run of the ledger with workers, messages and people, any of which may fail."""

    def run_to_its_end(self, limit: int = 3000, more: Sequence[Callable[[], None]] = ()) -> None:
        """Let everything happen that must, in any order, until the run has ended and nothing is
        under way.

        `more` may happen meanwhile, as often as the rest for a while.
        """
        for moment in range(limit):
            acts: list[Callable[[], None]] = [
                *[self.deliver] * bool(self.in_flight),
                *[self.finish] * bool(self.in_hand),
                *[self.witness] * bool(self.dead),
                *[self.tend] * any(at < inf for at in self.model.due.values()),
            ]
            if acts:
                self.rng.choice([*acts, *(more if moment < 40 else ())])()
            elif self.model.due:
                self._let_lapse()
            elif self.model.queued():
                self.send_all_again()
            else:
                break
        assert self.model.open == 0, self.model.steps
        assert not self.model.due
        assert self.ledger.run_fields(self.run_id)["state"] == self.model.run_state

    def send_all_again(self) -> None:
        """Send again what is queued: what a reaper does with messages that are gone."""
        for queue, level in self._queued_by_list():
            for step, attempt, sent_at_us in self.ledger.queued_before(
                self.run_id, queue, level, 2**52
            ):
                self._resend(step, attempt, sent_at_us)

    def _let_lapse(self) -> None:
        """The workers that hold what nobody is at any more are gone: their leases run out."""
        held = [
            OwnedAttempt(
                AttemptId(self.run_id, step, self.model.steps[step].attempt),
                self.model.steps[step].holder,
            )
            for step in self.model.due
            if self.model.steps[step].holder
        ]
        self.ledger.renew(held, NO_TIME_S)
        self.model.renew([(it.step, it.attempt, it.owner) for it in held], lasts=False)
        self.compare()
