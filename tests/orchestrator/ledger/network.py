"""A run under an unkind network: workers that die, hang or give up, messages that are lost,
doubled, late and out of order, people who cancel and resume.

Everything is done to the real ledger and to its model, and after every operation the two must be
the same. Whatever may be said twice sometimes is.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import inf
from random import Random
from typing import Any

from oracle import DEADLINE_S, LedgerModel, Shape
from runs import INSTANT_S, RULES, SETTINGS, Graph, SaidTwice, age, counts_in, random_options, start

from orchestrator.attempt_id import AttemptId
from orchestrator.error_card import ErrorCard
from orchestrator.ledger.entries import priority_level
from orchestrator.ledger.events import Event
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.staging import broker_lists, staged_steps
from orchestrator.ledger.states import Outcome
from orchestrator.ledger.values import (
    AttemptsStopping,
    BackOff,
    Chain,
    Claim,
    Commit,
    Link,
    OwnedAttempt,
    Refusal,
    Replaced,
    RunNotEnded,
    RunSucceeded,
    owner_of,
)

Links = tuple[Link, ...]

WORKERS = ("w1", "w11", "w2")  # one name is the beginning of another
COPIES = (0, 1, 1, 1, 1, 2, 3)  # how often a message that is sent arrives
LONG_S, NO_TIME_S = 3600.0, 0.0  # leases
LONG_US = 1_000_000_000
DEADLINE = {"deadline_s": DEADLINE_S}


@dataclass(frozen=True)
class Fate:
    """How the attempts of each step go: the first `failing[step]` fail, `retries[step]` more may
    follow the first.

    Attempts that do not count against the retries are not counted here either.
    """

    failing: dict[str, int]
    retries: dict[str, int]

    def fails(self, step: str, number: int) -> bool:
        return number <= self.failing.get(step, 0)

    def may_retry(self, step: str, number: int) -> bool:
        return number <= self.retries.get(step, 0)

    def fail_for_good(self) -> set[str]:
        return {step for step, failing in self.failing.items() if failing > self.retries[step]}


def random_fate(rng: Random, graph: Graph, trouble: float) -> Fate:
    failing = {step: rng.randint(1, 3) if rng.random() < trouble else 0 for step in graph.upstream}
    return Fate(
        failing, {step: rng.randint(0, 2) if rng.random() < 0.5 else 0 for step in graph.upstream}
    )


@dataclass(frozen=True)
class Attempt:
    """An attempt that a worker holds, or has committed."""

    step: str
    attempt: int
    token: int
    worker: str
    owner: str
    number: int  # of the attempts that count, from 1
    rest: Links  # the links that follow in its message


@dataclass
class Network:
    ledger: Ledger
    graph: Graph
    fate: Fate
    rng: Random
    max_links: int = 3
    has_deadline: bool = False  # which it has missed when somebody looks
    may_time_out: bool = True
    may_be_late: bool = True  # by a deadline that a resume gives
    age_us: int = 0  # how long ago the run was created; from 1e14 on numbers need care in Lua
    run_id: str = ""
    sent: list[Links] = field(default_factory=list)
    in_flight: list[Links] = field(default_factory=list)
    in_hand: list[Attempt] = field(default_factory=list)
    dead: list[Attempt] = field(default_factory=list)  # died with their process, seen by nobody yet
    # commits, was it a success
    said: list[tuple[Attempt, bool, Commit | Refusal]] = field(default_factory=list)
    held: list[Attempt] = field(default_factory=list)  # all that ever were
    claims: int = 0
    seen: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        plan = self.graph.plan()
        self.pipeline = plan.pipeline.name
        self.next_in_chain = {a: b for chain in plan.chains for a, b in pairwise(chain)}
        self.model = LedgerModel(_shape(self.graph), has_missed_deadline=self.has_deadline)
        fields = DEADLINE if self.has_deadline else {}
        self.run_id, ready = start(self._teller(), plan, max_links=self.max_links, fields=fields)
        if self.age_us:
            age(self.ledger, self.run_id, self.age_us)
        self._compare_ready(ready, self.model.start())
        self.compare()
        self._send(ready)

    # -- messages and workers
    # ------------------------------------------------------------------------------------

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
                AttemptId(self.run_id, it.step, it.attempt),
                it.owner if self.rng.random() < 0.8 else self._owner(),
            )
            for it in dict.fromkeys(chosen)
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

    # -- people
    # ----------------------------------------------------------------------------------------------

    def cancel(self) -> None:
        for _ in self._times():
            expected = self.model.cancel("enough")
            assert self.ledger.cancel(self.run_id, "enough") == (expected and expected[0])
            self._compare_nudged(expected[1] if expected else set())
            self.compare()

    def cancel_steps(self) -> None:
        steps = self.rng.sample(
            list(self.graph.upstream), min(self.rng.randint(1, 3), len(self.graph.upstream))
        )
        for _ in self._times():
            count, ready = self.ledger.cancel_steps(self.run_id, steps, "no need")
            expected, queued, workers = self.model.cancel_steps(steps)
            assert count == expected
            self._compare_ready(ready, queued)
            self._compare_nudged(workers)
            self.compare()
            self._send(ready)

    def resume(self) -> None:
        """The run goes on, as it was or as another pipeline; or it is refused: it has not ended, or
        has succeeded."""
        graph = self._mended_graph() if self.rng.random() < 0.5 else self.graph
        added = set(graph.upstream) - set(self.graph.upstream)
        some = (
            {step for step in graph.upstream if self.rng.random() < 0.1}
            if self.rng.random() < 0.5
            else set()
        )
        self.resume_by(graph, some | added)

    def resume_by(self, graph: Graph, begin: Collection[str] = ()) -> None:
        """Resume; what had not succeeded runs, so do `begin` and all that is below them, and what
        they had decided."""
        plan, model = graph.plan(), self.model
        waits_anew = model.set_back(begin, _shape(graph))
        again = [step for step in graph.upstream if step in waits_anew and self._succeeded(step)]
        kept = graph.upstream.keys() - waits_anew
        is_other = graph is not self.graph
        is_late = self.may_be_late and self.rng.random() < 0.05
        fields = {
            "lists": json.dumps(broker_lists(plan, SETTINGS)),
            **(DEADLINE if is_late else {}),
        }
        resets = [
            (step, sum(up in kept for up in plan.upstream[step]))
            for step in graph.upstream
            if step not in kept
        ]
        before = model.run_state, len(model.due)
        gone = [step for step in self.graph.upstream if step not in graph.upstream]
        expected = model.resume(begin, _shape(graph), is_late)
        try:
            ready = self._teller().resume(
                self.run_id, resets, again=again, gone=gone,
                staged=list(staged_steps(plan, SETTINGS)) if is_other else (), fields=fields,
            )  # fmt: skip
        except RunSucceeded:
            assert (expected, before[0]) == (None, "succeeded")
            return self.compare()
        except (RunNotEnded, AttemptsStopping) as error:
            state, still_held = before
            why = state if isinstance(error, RunNotEnded) else str(AttemptsStopping(still_held))
            assert (expected, str(error)) == (None, why)  # noqa: PT017
            return self.compare()
        assert expected is not None
        self.graph = graph
        self.next_in_chain = {a: b for chain in plan.chains for a, b in pairwise(chain)}
        self._compare_ready(ready, expected)
        self.compare()
        return self._send(ready)

    def tell_people(self) -> None:
        """Somebody tells people that the run failed; it works, or not yet."""
        tried = self.ledger.claim_alert(self.run_id, 0.0)
        assert (tried is None) == (self.model.alert_tries is None)
        if tried and self.model.alert_tries is not None:
            self.model.alert_tries += 1
            assert tried.number == self.model.alert_tries
            is_over = self.rng.random() < 0.3
            self.ledger.report_alert(
                self.run_id, tried, [("alert.sent", {})], retry_in_s=None if is_over else 0.0
            )
            self.model.changes.append(("alert.sent", "", 0))
            self.model.alert_tries = None if is_over else self.model.alert_tries
        self.compare()

    # -- to the end
    # ----------------------------------------------------------------------------------------------

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

    # -- how it is done
    # ------------------------------------------------------------------------------------------

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

    # -- comparing
    # ----------------------------------------------------------------------------------------------

    def _compare_ready(self, ready: tuple[Chain, ...], steps: set[str]) -> None:
        assert sorted(chain.links[0].step for chain in ready) == sorted(steps)
        for chain in ready:
            self._check_links(chain)

    def _check_links(self, chain: Chain) -> None:
        """A message follows one chain of the plan, is not too long, and every link may follow by a
        success."""
        assert 1 <= len(chain.links) <= self.max_links
        assert chain.links[0].attempt == self.model.steps[chain.links[0].step].attempt
        for link, following in pairwise(chain.links):
            assert self.next_in_chain[link.step] == following.step
            assert self.graph.rules[following.step] != "one_failed"
            assert following.attempt == self.model.steps[following.step].attempt + 1

    def _compare_nudged(self, workers: set[str]) -> None:
        nudged = {
            worker for worker in WORKERS if self.ledger.client.delete(self.ledger.nudge_key(worker))
        }
        assert nudged == workers

    def _queued_by_list(self) -> dict[tuple[str, int], set[str]]:
        lists: dict[tuple[str, int], set[str]] = defaultdict(set)
        for step, _ in self.model.queued():
            lists["cpu", priority_level(self.graph.options.get(step, {}).get("priority", 5))].add(
                step
            )
        return lists

    def compare(self) -> None:
        """The ledger and its model are in the same state, and the same changes brought them
        there."""
        model, key = self.model, self.ledger.key
        levels = [("cpu", level) for level in (0, 3, 6, 9)]
        with self.ledger.client.pipeline(transaction=False) as pipe:
            for part in ("run", "state", "uncounted", "output"):
                pipe.hgetall(key(self.run_id, part))
            pipe.zrange(key(self.run_id, "due"), 0, -1, withscores=True)
            for queue, level in levels:
                pipe.zrange(key(self.run_id, f"queued:{queue}:{level}"), 0, -1)
            pipe.time()
            fields, states, uncounted, outputs, due, *lists, clock = pipe.execute()
        assert fields["state"] == model.run_state
        assert int(fields["open"]) == model.open
        assert int(fields["token"]) == model.last_token
        assert int(fields.get("resumes", 0)) == model.resumes
        assert fields.get("cancel_reason") == model.cancel_reason
        assert ("started_at" in fields) == model.is_started
        assert ("ended_at" in fields) == (model.run_state in ("succeeded", "failed", "cancelled"))
        assert (int(fields["alert_tries"]) if "alert_at" in fields else None) == model.alert_tries
        assert counts_in(fields) == dict(model.counts)

        reached = {step: tuple(text.split(" ", 2)[:2]) for step, text in states.items()}
        known = model.steps | model.gone
        expected = {step: (it.state, str(it.attempt)) for step, it in known.items()}
        untouched = ("waiting", "0")
        assert {s: at for s, at in reached.items() if at != untouched} == {
            s: at for s, at in expected.items() if at != untouched
        }
        for step in model.in_state("running", "cancelled"):
            _, _, token, _, holder = states[step].split(" ", 4)
            assert holder == (known[step].holder or "-")
            assert int(token) == known[step].token or not known[step].holder
        assert uncounted == {
            step: f"{it.lost} {it.uncounted}" + (f" {it.put_back}" if it.put_back else "")
            for step, it in known.items()
            if it.uncounted
        }
        assert outputs == {step: it.output for step, it in known.items() if it.output}
        now_us = clock[0] * 1_000_000 + clock[1]
        assert {step: at > now_us + LONG_US for step, at in due} == {
            step: at == inf for step, at in model.due.items()
        }
        assert {
            at: set(steps) for at, steps in zip(levels, lists, strict=True) if steps
        } == self._queued_by_list()

        new = list(self.ledger.events(self.run_id, self.seen[-1].id if self.seen else "0"))
        self.seen += new
        assert Counter((event.kind, event.step, event.attempt) for event in new) == Counter(
            model.changes
        )
        model.changes.clear()


def _shape(graph: Graph) -> Shape:
    patience = {step: INSTANT_S for step, it in graph.options.items() if "queue_timeout" in it}
    budget = {
        step: it["lost_attempts"] for step, it in graph.options.items() if "lost_attempts" in it
    }
    return Shape(graph.upstream, graph.rules, patience, budget)
