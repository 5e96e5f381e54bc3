"""What messages and workers do."""

from __future__ import annotations

from orchestrator.attempt_id import AttemptId
from orchestrator.ledger.values import (
    OwnedAttempt,
    owner_of,
)
from tests.support.network.doing import Doing
from tests.support.network.fates import LONG_S, NO_TIME_S, WORKERS


class Workers(Doing):
    """What messages and workers do."""

    def deliver(self) -> None:
        """A message arrives, any of those under way: a worker claims its first link."""
        if self.in_flight:
            message = self.in_flight.pop(self.rng.randrange(len(self.in_flight)))
            self._claim(message[0].step, message[0].attempt, message[1:])

    def stray(self) -> None:
        """A message arrives that nobody sent."""
        self._claim(self.rng.choice(list(self.graph.upstream)), self.rng.randint(0, 3), ())

    def finish(self) -> None:
        """A worker commits."""
        if self.in_hand:
            held = self.in_hand.pop(self.rng.randrange(len(self.in_hand)))
            is_success = not self.fate.fails(held.step, held.number)
            answer = self._commit(held, held.token, is_success, held.rest)
            if self.rng.random() < 0.2:
                self._say_again(held, is_success, answer)
            self.said.append((held, is_success, answer))
            self._go_on(held, answer)

    def say_late(self) -> None:
        """A commit that was said long ago is said again."""
        if self.said:
            self._say_again(*self.rng.choice(self.said))

    def say_with_an_old_token(self) -> None:
        """A commit with a token that is not the current one, or for an attempt that is not."""
        if self.said:
            held = self.rng.choice(self.said)[0]
            token = self.rng.choice([held.token, held.token + 1, self.rng.choice(self.held).token])
            self._commit(held, token, self.rng.random() < 0.7, (), self.rng.randint(0, 2))

    def write_log(self) -> None:
        """An attempt writes a line: one that runs, or one that ended long ago."""
        if self.held:
            held = self.rng.choice(self.held)
            for _ in self._times():
                is_taken = self.ledger.append_log(
                    AttemptId(self.run_id, held.step, held.attempt), held.token, ["line"], 10
                )
                assert is_taken == self.model.log(held.step, held.attempt, held.token)
                self.compare()

    def die(self) -> None:
        """A worker's process dies with its attempt."""
        if self.in_hand:
            self.dead.append(self.in_hand.pop(self.rng.randrange(len(self.in_hand))))

    def witness(self) -> None:
        """Somebody tells of a process that died: its own worker or another; the dead one may still
        speak later."""
        if self.dead:
            held = self.rng.choice(self.dead)
            owner = self.rng.choice(
                [held.owner, held.owner, held.worker, *WORKERS, owner_of(held.worker, "i1", 9)]
            )
            if owner in (held.owner, held.worker):
                self.dead.remove(held)
                if self.rng.random() < 0.3:
                    self.in_hand.append(held)
            if self.may_time_out and self.rng.random() < 0.2:  # it was ended when its time was up
                self._go_on(held, self._commit(held, 0, False, (), worker=owner))
            else:
                self._lose(held.step, held.attempt, owner=owner)

    def lose_a_message(self) -> None:
        """A process that has taken a message dies before it claims, and its worker saw it; or it
        gives it up."""
        if queued := sorted(self.model.queued()):
            self._lose(
                *self.rng.choice(queued),
                owner=self._owner(),
                kind=self.rng.choice(["lost", "handed_over"]),
            )

    def hand_over(self) -> None:
        """An attempt is given up by itself or by its worker, and may go on for a while."""
        if self.in_hand:
            held = self.in_hand.pop(self.rng.randrange(len(self.in_hand)))
            if self.rng.random() < 0.3:
                self.in_hand.append(held)
            if self.rng.random() < 0.5:
                self._lose(held.step, held.attempt, token=held.token, kind="handed_over")
            else:
                self._lose(held.step, held.attempt, owner=held.owner, kind="handed_over")

    def put_back(self) -> None:
        """An attempt goes back because its worker cannot do it; it may go on for a while."""
        if self.in_hand:
            held = self.in_hand.pop(self.rng.randrange(len(self.in_hand)))
            if self.rng.random() < 0.3:
                self.in_hand.append(held)
            self._put_back(
                held, {"token": held.token} if self.rng.random() < 0.7 else {"owner": held.owner}
            )

    def put_back_late(self) -> None:
        """Somebody puts back an attempt that ended long ago, or one that is another's."""
        if self.held:
            held = self.rng.choice(self.held)
            self._put_back(
                held, self.rng.choice([{"token": held.token + 1}, {"owner": self._owner()}, {}])
            )

    def say_late_that_it_is_lost(self) -> None:
        """Somebody tells of the death of an attempt that ended long ago, or of one that is
        alive."""
        if self.held:
            held = self.rng.choice(self.held)
            shown = self.rng.choice(
                [{"token": held.token}, {"token": held.token + 1}, {"owner": self._owner()}, {}]
            )
            self._lose(held.step, held.attempt, **shown)

    def renew(self) -> None:
        """A worker renews what it holds, and what it no longer holds; leases last, or let lapse."""
        if not self.held:
            return
        chosen = self.rng.sample(self.held, self.rng.randint(0, min(4, len(self.held))))
        held = [
            OwnedAttempt(
                AttemptId(self.run_id, fromkey.step, fromkey.attempt),
                fromkey.owner if self.rng.random() < 0.8 else self._owner(),
            )
            for fromkey in dict.fromkeys(chosen)
        ]
        lasts = self.rng.random() < 0.6
        for _ in self._times():
            answers = self.ledger.renew(held, LONG_S if lasts else NO_TIME_S)
            expected = self.model.renew(
                [(it.step, it.attempt, it.owner) for it in held], lasts=lasts
            )
            assert [answers.get(it) for it in held] == expected
            self.compare()
        for it, why in answers.items():
            if why == "cancelled" and self.rng.random() < 0.7:
                self._stop(it)

    def tend(self) -> None:
        """A coordinator does its round, and one or two tell of the leases that ran out."""
        for _ in self._times():
            limit = self.rng.choice([1, 500])
            tended = self.ledger.advance_due(self.run_id, limit)
            queued, expired = self.model.advance_due(limit)
            self._compare_ready(tended.ready, queued)
            assert [(it.step, it.attempt, it.worker) for it in tended.expired] == expired
            assert tended.state == self.model.run_state
            assert (tended.next_due_us is None) == (not self.model.due)
            assert (tended.alert_at_us is None) == (self.model.alert_tries is None)
            assert {(it.queue, it.level) for it in tended.waiting} == set(self._queued_by_list())
            self.compare()
            self._send(tended.ready)
            for step, attempt, _ in expired:
                if self.rng.random() < 0.7:
                    self._lose(step, attempt)

    def resend(self) -> None:
        """A reaper sends again what nobody has taken, and another reaper has seen the same."""
        for queue, level in self._queued_by_list():
            for step, attempt, sent_at_us in self.ledger.queued_before(
                self.run_id, queue, level, 2**52
            ):
                if self.rng.random() < 0.5:
                    self._resend(step, attempt, sent_at_us)
