"""The rules of the ledger in plain Python: what `ledger.lua` must do, said as simply as can be.

Nothing is counted here and nothing is kept that can be derived: a waiting step is judged from the states of all its
upstreams, as the user wrote them, until nothing changes any more. Due times are left out: what retries is due.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

ENDED = frozenset({"succeeded", "failed", "cancelled", "skipped", "upstream_failed"})
BAD = frozenset({"failed", "upstream_failed", "cancelled"})

Change = tuple[str, str, int]  # event, step, attempt


def judge(rule: str, upstream_states: Iterable[str]) -> str:
    """Give what a waiting step becomes: the trigger rules, word by word."""
    states = list(upstream_states)
    all_ended = all(state in ENDED for state in states)
    any_bad = any(state in BAD for state in states)
    if rule == "one_failed":
        return "queued" if any_bad else "skipped" if all_ended else "waiting"
    if any_bad and rule in ("all_success", "none_failed"):
        return "upstream_failed"
    if not all_ended:
        return "waiting"
    return "skipped" if rule == "all_success" and "skipped" in states else "queued"


def final_states(upstream: Mapping[str, Iterable[str]], rules: Mapping[str, str], fails: set[str]) -> dict[str, str]:
    """Give how every step ends, whatever the order, when the steps in `fails` fail for good if they run."""
    states: dict[str, str] = dict.fromkeys(upstream, "waiting")
    while open_steps := [step for step, state in states.items() if state == "waiting"]:
        for step in open_steps:
            verdict = judge(rules[step], [states[parent] for parent in upstream[step]])
            states[step] = verdict if verdict != "queued" else "failed" if step in fails else "succeeded"
    return states


@dataclass
class StepModel:
    state: str = "waiting"
    attempt: int = 0
    token: int = 0
    holder: tuple[str, str] = ("", "")  # worker, claim id


@dataclass
class LedgerModel:
    """One run. Every operation gives its answer and adds what it changed to `changes`."""

    upstream: Mapping[str, tuple[str, ...]]
    rules: Mapping[str, str]
    run_state: str = "queued"
    last_token: int = 0
    steps: dict[str, StepModel] = field(default_factory=dict)
    retrying: list[str] = field(default_factory=list)  # the one that is due first comes first
    changes: list[Change] = field(default_factory=list)

    def start(self) -> set[str]:
        """Give the steps that are queued."""
        self.steps = {step: StepModel() for step in self.upstream}
        self.changes.append(("run.created", "", 0))
        queued = self._judge_waiting()
        self._end_run_if_done()
        return queued

    def claim(self, step: str, attempt: int, claim_id: str, worker: str) -> int | None:
        """Give the token, None if the claim is refused."""
        it = self.steps.get(step, StepModel())
        if it.attempt == attempt and it.state == "queued":
            self.last_token += 1
            it.token, it.holder = self.last_token, (worker, claim_id)
            if self.run_state == "queued":
                self.run_state = "running"
                self.changes.append(("run.started", "", 0))
            self._change(step, "running")
        elif (it.attempt, it.state, it.holder) != (attempt, "running", (worker, claim_id)):
            return None
        return it.token

    def commit(
        self, step: str, attempt: int, token: int, worker: str, *, is_success: bool, may_retry: bool
    ) -> tuple[str, set[str]] | None:
        """Give the step's state and the steps that this queued, None if the commit is refused."""
        it = self.steps[step]
        is_current = it.attempt == attempt
        if token == 0:
            counts = is_current and (it.state == "queued" or (it.state == "running" and it.holder[0] == worker))
        else:
            counts = is_current and it.state == "running" and it.token == token
        if not counts:
            said_before = ("succeeded",) if is_success else ("retrying", "failed")
            if token and is_current and it.token == token and it.state in said_before:
                return it.state, set()
            if token:
                self.changes.append(("commit.refused", step, attempt))
            return None
        if is_success:
            self._change(step, "succeeded")
        elif may_retry:
            self._change(step, "retrying")
            self.retrying.append(step)
        else:
            self._change(step, "failed")
        queued = self._judge_waiting()
        self._end_run_if_done()
        return it.state, queued

    def promote(self, limit: int) -> set[str]:
        """Give the steps that are queued again."""
        due, self.retrying = self.retrying[:limit], self.retrying[limit:]
        for step in due:
            self.steps[step].attempt += 1
            self._change(step, "queued")
        return set(due)

    def cancel(self) -> int | None:
        """Give how many steps are cancelled, None if the run had ended."""
        if self.run_state in ENDED:
            return None
        still_open = [step for step, it in self.steps.items() if it.state not in ENDED]
        for step in still_open:
            self._change(step, "cancelled")
        self.retrying = []
        self.run_state = "cancelled"
        self.changes.append(("run.cancelled", "", 0))
        return len(still_open)

    @property
    def counts(self) -> Counter[str]:
        return Counter(it.state for it in self.steps.values())

    @property
    def open(self) -> int:
        return sum(it.state not in ENDED for it in self.steps.values())

    def queued(self) -> set[tuple[str, int]]:
        return {(step, it.attempt) for step, it in self.steps.items() if it.state == "queued"}

    def _change(self, step: str, state: str) -> None:
        self.steps[step].state = state
        event = "started" if state == "running" else state
        self.changes.append((f"step.{event}", step, self.steps[step].attempt))

    def _judge_waiting(self) -> set[str]:
        queued: set[str] = set()
        is_moving = True
        while is_moving:
            is_moving = False
            for step, it in self.steps.items():
                if it.state != "waiting":
                    continue
                verdict = judge(self.rules[step], [self.steps[parent].state for parent in self.upstream[step]])
                if verdict == "waiting":
                    continue
                is_moving = True
                if verdict == "queued":
                    it.attempt = 1
                    queued.add(step)
                self._change(step, verdict)
        return queued

    def _end_run_if_done(self) -> None:
        if self.run_state not in ENDED and not self.open:
            self.run_state = "failed" if self.counts["failed"] else "succeeded"
            self.changes.append((f"run.{self.run_state}", "", 0))
