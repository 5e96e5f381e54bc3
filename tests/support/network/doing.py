"""How each operation is done: on the ledger and on its model, and their answers compared."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from orchestrator.attempt_id import AttemptId
from orchestrator.error_card import ErrorCard
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.states import Outcome
from orchestrator.ledger.values import (
    BackOff,
    Chain,
    Claim,
    Commit,
    OwnedAttempt,
    Refusal,
    Replaced,
    owner_of,
)
from tests.support.network.comparing import Comparing
from tests.support.network.fates import COPIES, LONG_S, NO_TIME_S, WORKERS, Attempt, Links
from tests.support.runs import RULES, Graph, SaidTwice, random_options


class Doing(Comparing):
    """How each operation is done: on the ledger and on its model, and their answers compared."""

    def _times(self) -> range:
        """How often a call is said: again, when its answer was lost on the way."""
        return range(self.rng.choice([1, 1, 1, 2]))

    def _teller(self) -> Ledger:
        """Return the ledger, or one that says everything twice."""
        return self.rng.choice([self.ledger, SaidTwice(self.ledger.client, self.ledger.prefix)])

    def _owner(self) -> str:
        return owner_of(self.rng.choice(WORKERS), "i1", self.rng.randint(1, 3))

    def _succeeded(self, step: str) -> bool:
        it = self.model.steps.get(step)
        return it is not None and it.state == "succeeded"

    def _mended_graph(self) -> Graph:
        """Return the graph without some of its steps and with one more, which may be one that there
        was before."""
        names = {step for step in self.graph.upstream if self.rng.random() < 0.85}
        known = {*self.graph.upstream, *self.model.gone}
        new = self.rng.choice([f"s{len(known)}", *sorted(self.model.gone)])
        kept = {
            step: tuple(up for up in parents if up in names)
            for step, parents in self.graph.upstream.items()
            if step in names
        }
        # A step waits for such of a lower number only, as in `random_graph`, so that there is no
        # loop.
        before = [step for step in kept if int(step[1:]) < int(new[1:])]
        parents = tuple(self.rng.sample(before, min(len(before), self.rng.randint(0, 2))))
        for step in kept:
            if int(step[1:]) > int(new[1:]) and self.rng.random() < 0.3:
                kept[step] = (*kept[step], new)
        order = [*kept, new]
        self.rng.shuffle(order)
        kept[new] = parents
        rules = {step: self.graph.rules.get(step) or self.rng.choice(RULES).value for step in order}
        options = {step: self.graph.options.get(step) or random_options(self.rng) for step in order}
        return replace(
            self.graph, upstream={step: kept[step] for step in order}, rules=rules, options=options
        )

    def _claim(self, step: str, attempt: int, rest: Links) -> None:
        self.claims += 1
        owner = self._owner()
        worker, _, process = owner.partition(" ")
        claim_id, lasts = f"{process}{self.claims}", self.rng.random() < 0.8
        for _ in self._times():
            claim = self.ledger.claim(
                AttemptId(self.run_id, step, attempt),
                claim_id,
                worker,
                LONG_S if lasts else NO_TIME_S,
            )
            given = claim.token if isinstance(claim, Claim) else None
            token = self.model.claim(step, attempt, claim_id, worker, given=given or 0, lasts=lasts)
            assert given == token
            self.compare()
        if isinstance(claim, Claim) and token is not None:
            assert claim.uncounted == self.model.steps[step].uncounted
            held = Attempt(step, attempt, token, worker, owner, attempt - claim.uncounted, rest)
            self.in_hand.append(held)
            self.held.append(held)

    def _commit(
        self,
        held: Attempt,
        token: int,
        is_success: bool,
        rest: Links,
        back: int = 0,
        worker: str = "",
    ) -> Commit | Refusal:
        attempt = held.attempt - back
        worker = worker or held.worker
        may_retry = not is_success and self.fate.may_retry(held.step, held.number)
        outcome = (
            Outcome.SUCCEEDED if is_success else Outcome.FAILED if token else Outcome.TIMED_OUT
        )
        output = f'"{held.step}/{attempt}"' if is_success else ""
        answer = self.ledger.commit(
            AttemptId(self.run_id, held.step, attempt), token, worker, outcome, output=output,
            follower=rest[0][:2] if rest and is_success else ("", 0),
            retry_in_s=0.0 if may_retry else None,
        )  # fmt: skip
        expected = self.model.commit(
            held.step,
            attempt,
            token,
            worker,
            is_success=is_success,
            may_retry=may_retry,
            output=output,
        )
        is_new = bool(self.model.changes)
        if expected is None:
            assert isinstance(answer, Refusal)
        else:
            assert isinstance(answer, Commit)
            assert answer.state == expected[0]
            if is_new:
                on_its_own = {rest[0].step} if answer.is_chain_going_on else set()
                assert not on_its_own & {chain.links[0].step for chain in answer.ready}
                self._compare_ready(answer.ready, expected[1] - on_its_own)
                assert on_its_own <= expected[1]
        self.compare()
        return answer

    def _say_again(self, held: Attempt, is_success: bool, first: Commit | Refusal) -> None:
        """The same commit once more: the second answer is as good as the first."""
        again = self._commit(held, held.token, is_success, held.rest)
        told, told_again = self._told(held, first), self._told(held, again)
        assert told & self.model.queued() <= told_again <= self.model.queued()

    def _told(self, held: Attempt, answer: Commit | Refusal) -> set[tuple[str, int]]:
        if isinstance(answer, Refusal):
            return set()
        told = {chain.links[0][:2] for chain in answer.ready}
        return told | {held.rest[0][:2]} if answer.is_chain_going_on else told

    def _lose(
        self, step: str, attempt: int, *, token: int = 0, owner: str = "", kind: str = "lost"
    ) -> None:
        detail = {"error": {"type": "ProcessLost", "message": "gone"}, "found": "nothing"}
        for _ in self._times():
            answer: Replaced | Refusal
            if kind == "lost":
                answer = self.ledger.report_lost(
                    AttemptId(self.run_id, step, attempt), detail, token=token, owner=owner
                )
            else:
                answer = self.ledger.hand_over(
                    AttemptId(self.run_id, step, attempt), "enough", token=token, owner=owner
                )
            expected = self.model.lost(step, attempt, token=token, owner=owner, kind=kind)
            if expected is None:
                assert isinstance(answer, Refusal)
            else:
                assert isinstance(answer, Replaced)
                assert answer.state == expected[0]
                if self.model.changes or expected[0] == "queued":
                    self._compare_ready(answer.ready, expected[1])
                else:
                    assert {chain.links[0][:2] for chain in answer.ready} <= self.model.queued()
                self._send(answer.ready)
            self.compare()

    def _put_back(self, held: Attempt, shown: dict[str, Any]) -> None:
        error = self.rng.choice([None, ErrorCard("StoreUnusable", "full")])
        for _ in self._times():
            answer = self.ledger.put_back(
                AttemptId(self.run_id, held.step, held.attempt), {"reason": "full", "host": "h"},
                BackOff(NO_TIME_S, NO_TIME_S),
                error=error, **shown,
            )  # fmt: skip
            expected = self.model.put_back(
                held.step, held.attempt, has_begun=error is not None, **shown
            )
            if expected is None:
                assert isinstance(answer, Refusal)
            else:
                assert isinstance(answer, Replaced)
                assert answer.state == expected[0]
                if self.model.changes:
                    self._compare_ready(answer.ready, expected[1])
                else:
                    assert {chain.links[0][:2] for chain in answer.ready} <= self.model.queued()
                self._send(answer.ready)
            self.compare()

    def _stop(self, held: OwnedAttempt) -> None:
        """A worker has stopped what it was told to stop."""
        ended_alone = self.rng.random() < 0.3
        for _ in self._times():
            self.ledger.report_stopped(held, {"how": "killed"}, ended_alone=ended_alone)
            self.model.stopped(held.step, held.attempt, held.owner, ended_alone=ended_alone)
            self.compare()
        self.in_hand = [
            it
            for it in self.in_hand
            if (it.step, it.attempt, it.owner) != (held.step, held.attempt, held.owner)
        ]

    def _resend(self, step: str, attempt: int, sent_at_us: int) -> None:
        for caller in range(self.rng.randint(1, 3)):
            ready = self.ledger.resend(
                AttemptId(self.run_id, step, attempt), sent_at_us, {"found": "the queue is empty"}
            )
            if caller == 0:
                self.model.resend(step, attempt)
                self._compare_ready(ready, {step})
                self._send(ready)
            else:
                assert ready == ()
            self.compare()

    def _go_on(self, held: Attempt, answer: Commit | Refusal) -> None:
        if isinstance(answer, Commit):
            if answer.is_chain_going_on:
                self._put_on_the_way(held.rest)
            self._send(answer.ready)

    def _send(self, chains: Iterable[Chain]) -> None:
        for chain in chains:
            assert chain.pipeline == self.pipeline
            self._put_on_the_way(chain.links)

    def _put_on_the_way(self, links: Links) -> None:
        self.sent.append(links)
        self.in_flight += [links] * self.rng.choice(COPIES)
