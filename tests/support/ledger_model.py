"""The rules of the ledger in plain Python: what the files in `lua/` must do.

Nothing is counted here and nothing is kept that can be derived: a waiting step is judged from the
states of all its upstreams, as the user wrote them, until nothing changes any more. A lease has run
out, or runs for ever; what retries is due at once; who may wait for a worker no longer than an
instant has waited too long when somebody looks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from math import inf

from tests.support.rules import ENDED, judge, set_back

LOST_ATTEMPTS = 3
DEADLINE_S = "0.000001"  # missed when somebody looks

Change = tuple[str, str, int]  # event, step, attempt


@dataclass
class StepModel:
    state: str = "waiting"
    attempt: int = 0
    token: int = 0
    holder: str = ""  # worker and claim id, with a space between
    lost: int = 0  # since the last resume
    uncounted: int = 0  # attempts that do not count against the retries
    put_back: int = 0  # how often in a row
    output: str = ""

    def is_held_by(self, owner: str) -> bool:
        """Whether a worker of that name holds it, or that process of a worker."""
        return self.holder.startswith(owner if " " in owner else f"{owner} ")


@dataclass(frozen=True)
class Shape:
    """The steps of a run. `patience` is how long a step may wait for a worker (absent: for ever),
    `budget` how many attempts it may lose (absent: 3)."""

    upstream: Mapping[str, tuple[str, ...]]
    rules: Mapping[str, str]
    patience: Mapping[str, float] = field(default_factory=dict)
    budget: Mapping[str, int] = field(default_factory=dict)


@dataclass
class LedgerModel:
    """One run. Every operation gives its answer and adds what it changed to `changes`.

    `due` has when a step must be looked at, by a clock that goes on by one with each operation.
    """

    shape: Shape
    has_missed_deadline: bool = False  # as soon as somebody looks
    run_state: str = "queued"
    is_started: bool = False
    cancel_reason: str | None = None
    resumes: int = 0
    last_token: int = 0
    begun: int = 0  # attempts
    steps: dict[str, StepModel] = field(default_factory=dict)
    gone: dict[str, StepModel] = field(default_factory=dict)
    due: dict[str, float] = field(default_factory=dict)
    alert_tries: int | None = None  # None: there is nothing to tell
    changes: list[Change] = field(default_factory=list)
    now: float = 0.0

    # -- operations
    # ----------------------------------------------------------------------------------------------

    def start(self) -> set[str]:
        """Return the steps that are queued."""
        self.now += 1
        self.steps = {step: StepModel() for step in self.shape.upstream}
        self.changes.append(("run.created", "", 0))
        queued = self._judge_waiting()
        self._end_run_if_done()
        return queued

    def claim(
        self, step: str, attempt: int, claim_id: str, worker: str, *, given: int, lasts: bool
    ) -> int | None:
        """Return the token, None if the claim is refused. A new one is the one that was `given`, if
        it is larger than all before. The lease `lasts`, or has run out already."""
        self.now += 1
        it = self.steps.get(step, StepModel())
        holder = f"{worker} {claim_id}"
        if it.attempt == attempt and it.state == "queued":
            self.begun += 1
            self.last_token = max(given, self.last_token + 1)
            it.token, it.holder = self.last_token, holder
            if self.run_state == "queued":
                self.run_state, self.is_started = "running", True
                self.changes.append(("run.started", "", 0))
            self._change(step, "running")
            self.due[step] = inf if lasts else self.now
        elif (it.attempt, it.state, it.holder) != (attempt, "running", holder):
            return None
        return it.token

    def commit(
        self,
        step: str,
        attempt: int,
        token: int,
        worker: str,
        *,
        is_success: bool,
        may_retry: bool,
        output: str = "",
    ) -> tuple[str, set[str]] | None:
        """Return the step's state and the steps that this queued, None if the commit is refused."""
        self.now += 1
        it = self._step(step)
        is_current = it.attempt == attempt
        if token == 0:
            counts = is_current and (
                it.state == "queued" or (it.state == "running" and it.is_held_by(worker))
            )
        else:
            counts = is_current and it.state == "running" and it.token == token
        if not counts:
            said_before = ("succeeded",) if is_success else ("retrying", "failed")
            if (
                token
                and is_current
                and it.token == token
                and it.state in said_before
                and not it.holder
            ):
                return it.state, set()
            if token:
                self.changes.append(("commit.refused", step, attempt))
            return None
        it.holder = ""
        if is_success:
            it.output = output
            self._change(step, "succeeded")
        elif may_retry:
            self._change(step, "retrying")
            self.due[step] = self.now
        else:
            self._change(step, "failed")
        queued = self._judge_waiting()
        self._end_run_if_done()
        return it.state, queued

    def lost(
        self, step: str, attempt: int, *, token: int = 0, owner: str = "", kind: str = "lost"
    ) -> tuple[str, set[str]] | None:
        """Return the step's state and what is queued, None if who says so is not believed."""
        self.now += 1
        it = self._step(step)
        if it.state == "queued" and it.attempt == attempt and owner:
            word = "message.lost" if kind == "lost" else "message.returned"
            self.changes.append((word, step, attempt))
            return "queued", {step}
        if it.state == "cancelled" and it.attempt == attempt and it.holder:
            is_over = step in self.due and self._is_due(step)
            if not (it.token == token if token else it.is_held_by(owner) if owner else is_over):
                return None
            self._end_stopping(step, keeps_holder=not token and not owner)
            return "cancelled", set()
        if not token and not owner and (it.state != "running" or it.attempt != attempt):
            return None  # many may have seen that the lease had run out: one of them is believed
        if it.state == "queued" and it.attempt == attempt + 1:
            return "queued", {step}
        if it.state == "failed" and it.attempt == attempt:
            return "failed", set()
        if it.state != "running" or it.attempt != attempt:
            return None
        if not (
            it.token == token if token else it.is_held_by(owner) if owner else self._is_due(step)
        ):
            return None
        it.uncounted += 1
        it.lost += kind == "lost"
        it.put_back = 0
        queued = {step}
        if kind == "lost" and it.lost >= self.shape.budget.get(step, LOST_ATTEMPTS):
            self._change(step, "failed")  # its holder is kept: it may still be at it
            queued = self._judge_waiting()
        else:
            self.changes.append((f"attempt.{kind}", step, attempt))
            self._queue(step)
        self._end_run_if_done()
        return it.state, queued

    def put_back(
        self, step: str, attempt: int, *, token: int = 0, owner: str = "", has_begun: bool
    ) -> tuple[str, set[str]] | None:
        """Return the step's state and what is queued, None if who says so is not believed."""
        self.now += 1
        it = self._step(step)
        if it.attempt != attempt:
            return None
        if token and it.token == token and not it.holder and it.state in ("retrying", "failed"):
            return it.state, set()
        is_mine = it.token == token if token else bool(owner) and it.is_held_by(owner)
        if not it.holder or it.state not in ("running", "cancelled") or not is_mine:
            return None
        if it.state == "cancelled":
            self._end_stopping(step)
            return "cancelled", set()
        it.holder = ""
        queued: set[str] = set()
        if has_begun and self.shape.budget.get(step, LOST_ATTEMPTS) <= 1:
            self._change(step, "failed")
            queued = self._judge_waiting()
        else:
            it.uncounted += 1
            it.put_back += 1
            self.changes.append(("attempt.put_back", step, attempt))
            self._change(step, "retrying")
            self.due[step] = self.now
        self._end_run_if_done()
        return it.state, queued

    def renew(self, held: Iterable[tuple[str, int, str]], *, lasts: bool) -> list[str | None]:
        """Return for each (step, attempt, owner) why it is to be stopped, None if it may go on."""
        self.now += 1
        answers = []
        for step, attempt, owner in held:
            it = self._step(step)
            is_mine = it.attempt == attempt and it.is_held_by(owner)
            if is_mine and it.state in ("running", "cancelled"):
                self.due[step] = inf if lasts else self.now
            if is_mine and it.state == "running":
                answers.append(None)
            elif is_mine and it.state == "cancelled":
                answers.append("cancelled")
            else:
                is_over = it.attempt > attempt or it.state in (
                    "running",
                    "waiting",
                    "skipped",
                    "upstream_failed",
                )
                is_given_up = it.state == "cancelled" and not it.holder
                answers.append("fenced" if is_mine or is_over or is_given_up else None)
        return answers

    def stopped(self, step: str, attempt: int, owner: str, *, ended_alone: bool = False) -> None:
        self.now += 1
        it = self._step(step)
        if it.state == "cancelled" and it.attempt == attempt:
            if it.is_held_by(owner):
                self._end_stopping(step)
        elif not ended_alone:
            self.changes.append(("attempt.stopped", step, attempt))

    def advance_due(self, limit: int) -> tuple[set[str], list[tuple[str, int, str]]]:
        """Return the steps that are queued, and the attempts (step, attempt, worker) whose lease
        has run out."""
        self.now += 1
        queued: set[str] = set()
        expired = []
        if self.has_missed_deadline and self.run_state not in ENDED:
            self._cancel_all("failed", f"missed its deadline of {DEADLINE_S} s")
        due = sorted((at, step) for step, at in self.due.items() if at <= self.now)
        for _, step in due[:limit]:
            it = self.steps[step]
            worker = it.holder.partition(" ")[0]
            if it.state in ("running", "cancelled"):
                expired.append((step, it.attempt, worker))
                continue
            del self.due[step]
            if it.state == "retrying":
                self._queue(step)
                queued.add(step)
            else:
                self._change(step, "failed")
                queued |= self._judge_waiting()
        self._end_run_if_done()
        return queued, expired

    def resend(self, step: str, attempt: int) -> None:
        """The message of a queued step is sent once more, by the one caller who saw when it was
        sent last."""
        self.now += 1
        self.changes.append(("message.lost", step, attempt))

    def cancel(self, reason: str) -> tuple[int, set[str]] | None:
        """Return how many steps are cancelled and the workers that run some; None if the run had
        ended."""
        self.now += 1
        return None if self.run_state in ENDED else self._cancel_all("cancelled", reason)

    def cancel_steps(self, steps: Iterable[str]) -> tuple[int, set[str], set[str]]:
        """Return how many steps are cancelled, the steps that this queued, and the workers that run
        some."""
        self.now += 1
        count, workers = self._cancel(steps)
        queued = self._judge_waiting()
        self._end_run_if_done()
        return count, queued, workers

    def set_back(self, asked: Collection[str], shape: Shape) -> set[str]:
        return set_back(self.shape.upstream, shape.upstream, self.in_state("succeeded"), asked)

    def resume(
        self, asked: Collection[str], shape: Shape, is_late: bool = False
    ) -> set[str] | None:
        """Return the steps that are queued, None if the run cannot be resumed. `asked` wait anew
        with all below them; the run has the steps of `shape` from now on."""
        self.now += 1
        if self.run_state not in ENDED or self.run_state == "succeeded" or self.due:
            return None
        known, waits_anew = self.gone | self.steps, self.set_back(asked, shape)
        self.shape = shape
        self.steps = {step: self._step(step) for step in shape.upstream}
        self.gone = {step: it for step, it in known.items() if step not in self.steps}
        for it in self.gone.values():
            it.state, it.output, it.holder = "waiting", "", ""
        for step, it in self.steps.items():
            if step not in waits_anew:
                continue
            it.state, it.output, it.holder = "waiting", "", ""
            if it.attempt:
                it.lost, it.uncounted, it.put_back = 0, it.attempt, 0
        self.run_state = "running" if self.is_started else "queued"
        self.cancel_reason = self.alert_tries = None
        self.has_missed_deadline = is_late
        self.resumes += 1
        self.changes.append(("run.resumed", "", 0))
        queued = self._judge_waiting()
        self._end_run_if_done()
        return queued

    def log(self, step: str, attempt: int, token: int) -> bool:
        """Whether lines of an attempt are taken."""
        it = self._step(step)
        if (
            it.state in ("running", "cancelled")
            and it.holder
            and (it.attempt, it.token) == (attempt, token)
        ):
            return True
        self.changes.append(("log.refused", step, attempt))
        return False

    # -- what can be derived
    # -------------------------------------------------------------------------------------

    @property
    def counts(self) -> Counter[str]:
        return Counter(step.state for step in self.steps.values())

    @property
    def open(self) -> int:
        return sum(step.state not in ENDED for step in self.steps.values())

    def queued(self) -> set[tuple[str, int]]:
        return {(step, it.attempt) for step, it in self.steps.items() if it.state == "queued"}

    def in_state(self, *states: str) -> list[str]:
        return [step for step, it in self.steps.items() if it.state in states]

    # -- how it is done
    # ------------------------------------------------------------------------------------------

    def _step(self, step: str) -> StepModel:
        return self.steps.get(step) or self.gone.get(step) or StepModel()

    def _is_due(self, step: str) -> bool:
        return self.due[step] <= self.now

    def _change(self, step: str, state: str) -> None:
        it = self.steps[step]
        it.state = state
        if state != "cancelled":
            self.due.pop(step, None)
        event = "started" if state == "running" else state
        self.changes.append((f"step.{event}", step, it.attempt))

    def _queue(self, step: str) -> None:
        it = self.steps[step]
        it.attempt, it.token, it.holder = it.attempt + 1, 0, ""
        self._change(step, "queued")
        if step in self.shape.patience:
            self.due[step] = self.now + self.shape.patience[step]

    def _end_stopping(self, step: str, *, keeps_holder: bool = False) -> None:
        it = self.steps[step]
        self.due.pop(step, None)
        it.holder = it.holder if keeps_holder else ""
        self.changes.append(("attempt.stopped", step, it.attempt))

    def _cancel(self, steps: Iterable[str]) -> tuple[int, set[str]]:
        count, workers = 0, set()
        for step in steps:
            it = self.steps[step]
            if it.state in ENDED:
                continue
            if it.state == "running":
                workers.add(it.holder.partition(" ")[0])
            else:
                self.due.pop(step, None)
            self._change(step, "cancelled")
            count += 1
        return count, workers

    def _cancel_all(self, final: str, reason: str) -> tuple[int, set[str]]:
        cancelled = self._cancel(self.steps)
        self.cancel_reason = reason
        self._end_run(final)
        return cancelled

    def _judge_waiting(self) -> set[str]:
        queued: set[str] = set()
        is_moving = True
        while is_moving:
            is_moving = False
            for step, it in self.steps.items():
                if it.state != "waiting":
                    continue
                verdict = judge(
                    self.shape.rules[step],
                    [self.steps[up].state for up in self.shape.upstream[step]],
                )
                if verdict == "waiting":
                    continue
                is_moving = True
                if verdict == "queued":
                    self._queue(step)
                    queued.add(step)
                else:
                    self._change(step, verdict)
        return queued

    def _end_run(self, final: str) -> None:
        self.run_state = final
        self.changes.append((f"run.{final}", "", 0))
        self.alert_tries = 0 if final == "failed" else None

    def _end_run_if_done(self) -> None:
        if self.run_state not in ENDED and not self.open:
            counts = self.counts
            self._end_run(
                "failed"
                if counts["failed"]
                else "cancelled"
                if counts["cancelled"]
                else "succeeded"
            )
