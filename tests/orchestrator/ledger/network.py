"""A run under an unkind network: workers that die, messages that are lost, doubled, late and out of order.

Everything is done to the real ledger and to its model, and after every operation the two must be the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random

from oracle import LedgerModel
from runs import Graph, counts_in, start

from orchestrator.ledger.ledger import Chain, Claim, Commit, Event, Ledger, Refusal
from orchestrator.ledger.states import Outcome

WORKERS = ("w1", "w2", "w3")
COPIES = (0, 1, 1, 1, 1, 2, 3)  # how often a message that is sent arrives


@dataclass(frozen=True)
class Fate:
    """How the attempts of each step go: the first `failing[step]` fail, `retries[step]` more may follow the first."""

    failing: dict[str, int]
    retries: dict[str, int]

    def fails(self, step: str, attempt: int) -> bool:
        return attempt <= self.failing[step]

    def may_retry(self, step: str, attempt: int) -> bool:
        return attempt <= self.retries[step]

    def fail_for_good(self) -> set[str]:
        return {step for step, failing in self.failing.items() if failing > self.retries[step]}


def random_fate(rng: Random, graph: Graph, trouble: float) -> Fate:
    failing = {step: rng.randint(1, 3) if rng.random() < trouble else 0 for step in graph.upstream}
    return Fate(failing, {step: rng.randint(0, 2) if rng.random() < 0.5 else 0 for step in graph.upstream})


@dataclass(frozen=True)
class Attempt:
    """An attempt that a worker holds, or has committed."""

    step: str
    attempt: int
    token: int
    worker: str
    claim_id: str
    rest: Chain  # the links that follow in its message


@dataclass
class Network:
    ledger: Ledger
    graph: Graph
    fate: Fate
    rng: Random
    max_links: int = 3
    run_id: str = ""
    sent: list[Chain] = field(default_factory=list)
    in_flight: list[Chain] = field(default_factory=list)
    in_hand: list[Attempt] = field(default_factory=list)
    dead: list[Attempt] = field(default_factory=list)  # died with their process, seen by nobody yet
    said: list[tuple[Attempt, bool, Commit | Refusal]] = field(default_factory=list)  # commits, was it a success
    claims: int = 0
    seen: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        plan = self.graph.plan()
        self.next_in_chain = {a: b for chain in plan.chains for a, b in pairwise(chain)}
        self.model = LedgerModel(self.graph.upstream, self.graph.rules)
        self.run_id, ready = start(self.ledger, plan, max_links=self.max_links)
        self._compare_ready(ready, self.model.start())
        self.compare()
        self._send(ready)

    # -- what may happen -----------------------------------------------------------------------------------------

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
            is_success = not self.fate.fails(held.step, held.attempt)
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
            self._commit(
                held, held.token + self.rng.choice([0, 1, 7]), self.rng.random() < 0.7, (), self.rng.randint(0, 2)
            )

    def die(self) -> None:
        """A worker's process dies with its attempt."""
        if self.in_hand:
            self.dead.append(self.in_hand.pop(self.rng.randrange(len(self.in_hand))))

    def witness(self) -> None:
        """Somebody has seen a process die: the right one or another; the dead one may still speak later."""
        if self.dead:
            held = self.rng.choice(self.dead)
            worker = self.rng.choice([held.worker, held.worker, *WORKERS])
            if worker == held.worker:
                self.dead.remove(held)
                if self.rng.random() < 0.3:
                    self.in_hand.append(held)
            answer = self._commit(held, 0, False, (), worker=worker)
            self._go_on(held, answer)

    def promote(self) -> None:
        """A coordinator queues retries that are due."""
        limit = self.rng.choice([1, 500])
        promotion = self.ledger.tend(self.run_id, limit)
        self._compare_ready(promotion.ready, self.model.promote(limit))
        assert promotion.state == self.model.run_state
        assert (promotion.next_due_us is None) == (not self.model.retrying)
        self.compare()
        self._send(promotion.ready)

    def cancel(self) -> None:
        assert self.ledger.cancel(self.run_id, "enough") == self.model.cancel()
        self.compare()

    def repeat_lost_messages(self) -> None:
        """Send again what is queued: what a reaper does with messages that are gone."""
        for step, attempt in sorted(self.model.queued()):
            self.in_flight.append(next(chain for chain in self.sent if chain[0][:2] == (step, attempt)))

    def run_to_its_end(self, limit: int = 2000) -> None:
        """Let everything happen that must, in any order, until the run has ended and nothing is under way."""
        for _ in range(limit):
            acts: list[Callable[[], None]] = [
                *[self.deliver] * bool(self.in_flight),
                *[self.finish] * bool(self.in_hand),
                *[self.witness] * bool(self.dead),
                *[self.promote] * bool(self.model.retrying),
            ]
            if acts:
                self.rng.choice(acts)()
            elif self.model.queued():
                self.repeat_lost_messages()
            else:
                break
        assert self.model.open == 0, self.model.steps
        assert self.ledger.run_fields(self.run_id)["state"] == self.model.run_state

    # -- how it is done ------------------------------------------------------------------------------------------

    def _claim(self, step: str, attempt: int, rest: Chain) -> None:
        self.claims += 1
        worker, claim_id = self.rng.choice(WORKERS), f"c{self.claims}"
        for _ in range(self.rng.choice([1, 1, 1, 2])):  # said again when the answer was lost on its way
            claim = self.ledger.claim(self.run_id, step, attempt, claim_id, worker)
            token = self.model.claim(step, attempt, claim_id, worker)
            assert (claim.token if isinstance(claim, Claim) else None) == token
        self.compare()
        if token is not None:
            self.in_hand.append(Attempt(step, attempt, token, worker, claim_id, rest))

    def _commit(
        self, held: Attempt, token: int, is_success: bool, rest: Chain, back: int = 0, worker: str = ""
    ) -> Commit | Refusal:
        attempt = held.attempt - back
        worker = worker or held.worker
        may_retry = not is_success and self.fate.may_retry(held.step, attempt)
        outcome = Outcome.SUCCEEDED if is_success else Outcome.FAILED if token else Outcome.LOST
        answer = self.ledger.commit(
            self.run_id, held.step, attempt, token, worker, outcome,
            follower=rest[0][:2] if rest and is_success else ("", 0), retry_in_s=0.0 if may_retry else None,
        )  # fmt: skip
        expected = self.model.commit(held.step, attempt, token, worker, is_success=is_success, may_retry=may_retry)
        is_new = bool(self.model.changes)
        if expected is None:
            assert isinstance(answer, Refusal)
        else:
            assert isinstance(answer, Commit)
            assert answer.state == expected[0]
            if is_new:
                on_its_own = {rest[0].step} if answer.is_chain_going_on else set()
                assert not on_its_own & {chain[0].step for chain in answer.ready}
                self._compare_ready(answer.ready, expected[1] - on_its_own)
                assert on_its_own <= expected[1]
        self.compare()
        return answer

    def _say_again(self, held: Attempt, is_success: bool, first: Commit | Refusal) -> None:
        """The same commit once more: the second answer is as good as the first."""
        again = self._commit(held, held.token, is_success, held.rest)
        if isinstance(first, Commit):
            told = {chain[0][:2] for chain in first.ready}
            told_again = {chain[0][:2] for chain in again.ready} if isinstance(again, Commit) else set()
            if first.is_chain_going_on:
                told.add(held.rest[0][:2])
            if isinstance(again, Commit) and again.is_chain_going_on:
                told_again.add(held.rest[0][:2])
            assert told & self.model.queued() <= told_again <= self.model.queued()

    def _go_on(self, held: Attempt, answer: Commit | Refusal) -> None:
        if isinstance(answer, Commit):
            if answer.is_chain_going_on:
                self._send([held.rest])
            self._send(answer.ready)

    def _send(self, chains: tuple[Chain, ...] | list[Chain]) -> None:
        self.sent += chains
        for chain in chains:
            self.in_flight += [chain] * self.rng.choice(COPIES)

    def _compare_ready(self, ready: tuple[Chain, ...], steps: set[str]) -> None:
        assert sorted(chain[0].step for chain in ready) == sorted(steps)
        for chain in ready:
            self._check_links(chain)

    def _check_links(self, chain: Chain) -> None:
        """A message follows one chain of the plan, is not too long, and every link may follow by a success."""
        assert 1 <= len(chain) <= self.max_links
        assert chain[0].attempt == self.model.steps[chain[0].step].attempt
        for link, following in pairwise(chain):
            assert self.next_in_chain[link.step] == following.step
            assert self.graph.rules[following.step] != "one_failed"
            assert following.attempt == 1

    def compare(self) -> None:
        """The ledger and its model are in the same state, and the same changes brought them there."""
        fields = self.ledger.run_fields(self.run_id)
        assert fields["state"] == self.model.run_state
        assert int(fields["open"]) == self.model.open
        assert int(fields["token"]) == self.model.last_token
        assert counts_in(fields) == dict(self.model.counts)
        reached = {step: (str(state), attempt) for step, (state, attempt) in self.ledger.states(self.run_id).items()}
        expected = {step: (it.state, it.attempt) for step, it in self.model.steps.items() if it.state != "waiting"}
        assert reached == expected
        new = list(self.ledger.events(self.run_id, self.seen[-1].id if self.seen else "0"))
        self.seen += new
        assert Counter((event.event, event.step, event.attempt) for event in new) == Counter(self.model.changes)
        self.model.changes.clear()
