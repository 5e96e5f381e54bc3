"""A run whose callers die between pages: each act is one call, and nobody goes on with what it has
left unless an act does."""

from __future__ import annotations

from random import Random

from orchestrator.attempt_id import AttemptId
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.states import Outcome, RunState, StepState
from orchestrator.ledger.values import AttemptsStopping, Refusal
from tests.support.rules import set_back
from tests.support.runs import Graph, run_state, start


class PagedRun:
    """A run, and what may happen to it."""

    def __init__(self, ledger: Ledger, graph: Graph, rng: Random) -> None:
        self.ledger, self.graph, self.plan = ledger, graph, graph.plan()
        self.run_id, _ = start(ledger, self.plan, max_links=rng.randint(1, 3))

    @property
    def state(self) -> RunState:
        return RunState(run_state(self.ledger, self.run_id))

    def act(self, rng: Random) -> None:
        """Do something, whatever the run allows."""
        acts = [self.go_on] * 3 + [self.claim] * 4 + [self.end] * 4 + [self.lose, self.look]
        acts += [self.cancel_some, self.cancel_page, self.resume, self.resume]
        rng.choice(acts)(rng)

    def finish(self, rng: Random) -> None:
        """Let the run end, with success from now on."""
        rounds = 0
        while not self.state.is_ended:
            rounds += 1
            assert rounds < 500, "the run does not end"
            self.ledger.go_on(self.run_id)
            self.look(rng)
            self.claim(rng)
            for step in self._in_state(StepState.RUNNING):
                self._commit(step, Outcome.SUCCEEDED)

    def go_on(self, rng: Random) -> None:
        self.ledger.go_on(self.run_id)

    def look(self, rng: Random) -> None:
        self.ledger.advance_due(self.run_id)

    def claim(self, rng: Random) -> None:
        """Claim some of what is queued: all of it, unless the run is being cancelled."""
        queued = self._in_state(StepState.QUEUED)
        for step in rng.sample(queued, min(len(queued), 3)):
            may = self.state in (RunState.QUEUED, RunState.RUNNING)
            number = self.ledger.states(self.run_id)[step][1]
            claim = self.ledger.claim(AttemptId(self.run_id, step, number), f"{step}-{number}", "w")
            assert isinstance(claim, Refusal) is not may

    def end(self, rng: Random) -> None:
        for step in self._in_state(StepState.RUNNING)[:1]:
            outcome = rng.choice([Outcome.SUCCEEDED] * 4 + [Outcome.FAILED])
            self._commit(step, outcome, rng.choice([None, 0.0]))

    def lose(self, rng: Random) -> None:
        for step in self._in_state(StepState.RUNNING)[:1]:
            number = self.ledger.states(self.run_id)[step][1]
            self.ledger.report_lost(AttemptId(self.run_id, step, number), {}, owner="w")

    def cancel_some(self, rng: Random) -> None:
        steps = rng.sample(list(self.graph.upstream), min(len(self.graph.upstream), 2))
        self.ledger.cancel_steps(self.run_id, steps, "enough")

    def cancel_page(self, rng: Random) -> None:
        """Do the first or a further page of one of two cancellings."""
        self.ledger._call(self.run_id, "cancel", "why", rng.choice(["one", "two"]))

    def cancel_whole(self) -> None:
        self.ledger.cancel(self.run_id, "why")
        assert self.state.is_ended

    def resume(self, rng: Random) -> None:
        """Resume the run if it has ended without success: do the first page of that."""
        if not self.state.is_ended or self.state is RunState.SUCCEEDED:
            return
        upstream = self.graph.upstream
        for step in self.ledger.stopping(self.run_id):
            self.ledger.report_lost(
                AttemptId(self.run_id, step.step, step.attempt), {}, owner=step.worker
            )
        succeeded = self._in_state(StepState.SUCCEEDED)
        asked = [step for step in succeeded if rng.random() < 0.1]
        anew = set_back(upstream, upstream, succeeded, asked)
        kept = set(succeeded) - anew
        resets = [
            (step, sum(up in kept for up in self.plan.upstream[step]))
            for step in upstream
            if step in anew
        ]
        again = [step for step in upstream if step in anew and step in set(succeeded)]
        try:
            self.ledger.resume(self.run_id, resets, again=again)
        except AttemptsStopping:
            raise AssertionError("they were told to be over") from None

    def _commit(self, step: str, outcome: Outcome, retry_in_s: float | None = None) -> None:
        _, number = self.ledger.states(self.run_id)[step]
        token = self.ledger.token(self.run_id, step)
        answer = self.ledger.commit(
            AttemptId(self.run_id, step, number),
            token,
            "w",
            outcome,
            output='"out"',
            retry_in_s=None if outcome is Outcome.SUCCEEDED else retry_in_s,
        )
        is_refused = isinstance(answer, Refusal)
        assert not is_refused or self.state in (RunState.CANCELLING, RunState.CANCELLED)

    def _in_state(self, state: StepState) -> list[str]:
        reached = self.ledger.states(self.run_id)
        return [step for step, (is_state, _) in reached.items() if is_state is state]
