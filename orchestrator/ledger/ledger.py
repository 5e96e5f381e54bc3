"""The ledger's client: one method for each operation of the files in `lua/`, beside the reads.

Every write is one atomic call. Times are microseconds since the epoch by the server's clock.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from secrets import token_hex
from typing import Any, cast

import redis
from redis.exceptions import RedisError, ResponseError

from orchestrator.errors import FormatUnknown
from orchestrator.ledger.entries import FORMAT
from orchestrator.ledger.reads import LedgerReads
from orchestrator.ledger.replies import chains_in, claim_in, due_report_in, replaced_in, resume_refusal
from orchestrator.ledger.script import Script
from orchestrator.ledger.server_clock import ClockStep, clock_key, last_step_in
from orchestrator.ledger.states import Outcome, RunState, StepState
from orchestrator.ledger.step_changes import StepChanges, step_changes
from orchestrator.ledger.values import (
    AlertTry,
    BackOff,
    Chain,
    Claim,
    Commit,
    DueReport,
    Held,
    Refusal,
    Replaced,
    RunExists,
    StagedStep,
    StepUnknown,
)

logger = logging.getLogger(__name__)

DEFAULT_LEASE_S = 6.0
NUDGE_KEPT_S = 10
STAGE_STEPS = 1000  # steps written in one call, so that a huge submit never blocks the server for long


class Ledger(LedgerReads):
    """State of runs in one Redis. Safe to share between threads, as the client is; not across a fork."""

    def __init__(self, client: redis.Redis, prefix: str = "orc") -> None:
        super().__init__(client, prefix)
        self._script = Script(client)

    def _call(self, run_id: str, *args: Any) -> Any:
        try:
            return self._script.call(self.key(run_id, "run"), *args)
        except ResponseError as error:
            if str(error).startswith("FORMAT "):
                raise FormatUnknown(run_id, int(str(error).removeprefix("FORMAT ")), FORMAT) from None
            raise

    def start(
        self, run_id: str, steps: Iterable[StagedStep], roots: Sequence[str], fields: Mapping[str, str | int]
    ) -> tuple[Chain, ...]:
        """Write a run and queue its roots, and what waits for none but reused steps; give them as chains to dispatch.

        The run exists from the last call on, at once and whole. Of several callers with one `run_id` the first to get
        there makes the run, of what it has staged itself; the others raise RunExists.
        """
        start_id = token_hex(6)
        count = self._stage(run_id, start_id, steps)
        pairs = [item for pair in fields.items() for item in pair]
        with self.client.pipeline(transaction=False) as pipe:
            pipe.zadd(f"{self.prefix}:runs", {run_id: self.now_us()}, nx=True)
            pipe.sadd(f"{self.prefix}:active", run_id)
            pipe.get(clock_key(self.prefix))
            *_, clock_text = pipe.execute()
        if clock_step := last_step_in(clock_text):
            pairs += ["clock_step", clock_step]
        pairs += ["v", FORMAT]
        try:
            chains = self._call(run_id, "start", count, start_id, json.dumps(list(roots)), *pairs)
        except ResponseError as error:
            if str(error).startswith("EXISTS"):
                raise RunExists(run_id) from None
            raise
        self._keep_watched(run_id)
        return chains_in(chains)

    def _stage(self, run_id: str, stage_id: str, steps: Iterable[StagedStep]) -> int:
        """Write steps where only the submit or resume of this id finds them. Return how many they are."""
        remaining, count = iter(steps), 0
        while page := list(islice(remaining, STAGE_STEPS)):
            self._call(run_id, "stage", stage_id, *(word for it in page for word in it.as_words()))
            count += len(page)
        return count

    def claim(
        self,
        run_id: str,
        step: str,
        attempt: int,
        claim_id: str,
        worker: str,
        lease_s: float = DEFAULT_LEASE_S,
    ) -> Claim | Refusal:
        """Ask to begin an attempt, and hold it for `lease_s`. The same `claim_id` gets the same answer again."""
        reply = self._call(run_id, "claim", step, attempt, claim_id, worker, round(lease_s * 1_000_000))
        return claim_in(reply)

    def commit(
        self,
        run_id: str,
        step: str,
        attempt: int,
        token: int,
        worker: str,
        outcome: Outcome,
        *,
        detail: Mapping[str, Any] | None = None,
        output: str = "",
        follower: tuple[str, int] = ("", 0),
        retry_in_s: float | None = None,
        code: tuple[str, str] | None = None,
    ) -> Commit | Refusal:
        """Record how an attempt ended; joins, cancellations below it and events happen in the same call.

        `follower` is the step and attempt that Celery publishes next of its own accord. `token` 0 is for who ended an
        attempt without having claimed it; then `worker` is its owner. `code` is an id of the files that it ran and
        their digests as JSON, to be kept with the run. May be said twice: the second answer is as good as the first.
        """
        reply = self._call(
            run_id,
            "commit",
            step,
            attempt,
            token,
            worker,
            outcome.value,
            json.dumps({"outcome": outcome.value, **(detail or {})}, separators=(",", ":")),
            output,
            follower[0],
            follower[1],
            "" if retry_in_s is None else round(retry_in_s * 1_000_000),
            *(code or ()),
        )
        if not reply[0]:
            return Refusal(reply[1])
        return Commit(StepState(reply[1]), bool(reply[2]), chains_in(reply[3]))

    def report_lost(
        self,
        run_id: str,
        step: str,
        attempt: int,
        detail: Mapping[str, Any],
        *,
        token: int = 0,
        owner: str = "",
        expected_us: int | None = None,
    ) -> Replaced | Refusal:
        """Record that an attempt is over without an end of its own: it is replaced, or its step fails when it has lost
        as many as it may. Who neither has the token nor is its owner is believed only when the lease has run out. An
        attempt whose step was cancelled is over with that; then the state is `cancelled` and nothing is ready.

        `detail` has error (type, message) and found. May be said twice by the token or the owner; of many who only saw
        the lease run out, one is believed.
        """
        told = {"outcome": Outcome.LOST.value, **detail}
        return self._replace(run_id, step, attempt, token, owner, "lost", told, expected_us)

    def hand_over(
        self, run_id: str, step: str, attempt: int, reason: str, *, token: int = 0, owner: str = ""
    ) -> Replaced | Refusal:
        """Give a running attempt up, so that another worker goes on with the step; no failure, and no lost attempt."""
        detail = {"outcome": Outcome.HANDED_OVER.value, "reason": reason}
        return self._replace(run_id, step, attempt, token, owner, Outcome.HANDED_OVER.value, detail)

    def put_back(
        self,
        run_id: str,
        step: str,
        attempt: int,
        detail: Mapping[str, Any],
        back_off: BackOff,
        *,
        token: int = 0,
        owner: str = "",
        error: Mapping[str, Any] | None = None,
    ) -> Replaced | Refusal:
        """Give a running attempt back because of something that is no fault of its step: it is tried again when it is
        due, and the attempt costs neither retries nor lost attempts.

        `detail` has reason and host. With `error` (type, message) the step may have begun, and one that may lose no
        attempt (`lost_attempts` 1) fails with it instead. May be said twice by the token.
        """
        told = {"outcome": Outcome.PUT_BACK.value, **detail}
        instead = json.dumps({"outcome": Outcome.FAILED.value, "error": error, **detail}) if error else ""
        times = (round(back_off.first_s * 1e6), round(back_off.longest_s * 1e6))
        text = json.dumps(told, separators=(",", ":"))
        reply = self._call(run_id, "put_back", step, attempt, token, owner, *times, text, instead)
        return replaced_in(reply)

    def _replace(
        self,
        run_id: str,
        step: str,
        attempt: int,
        token: int,
        owner: str,
        kind: str,
        detail: Mapping[str, Any],
        expected_us: int | None = None,
    ) -> Replaced | Refusal:
        text = json.dumps(detail, separators=(",", ":"))
        reply = self._call(run_id, "lost", step, attempt, token, owner, kind, text, expected_us or "")
        return replaced_in(reply)

    def renew(self, held: Sequence[Held], lease_s: float) -> dict[Held, str]:
        """Renew the leases of a worker's attempts, of any runs, in one round trip.

        Returns those that are to be stopped, with the reason: "cancelled", or "fenced" when somebody took over.
        """
        by_run: dict[str, list[Held]] = {}
        for attempt in held:
            by_run.setdefault(attempt.run_id, []).append(attempt)
        if not by_run:
            return {}
        lease_us = round(lease_s * 1_000_000)
        replies = self._script.calls(
            [
                (
                    self.key(run_id, "run"),
                    ["renew", lease_us, *(word for it in attempts for word in (it.step, it.attempt, it.owner))],
                )
                for run_id, attempts in by_run.items()
            ]
        )
        return {
            attempts[place - 1]: why
            for attempts, reply in zip(by_run.values(), replies, strict=True)
            for place, why in zip(reply[::2], reply[1::2], strict=True)
        }

    def report_stopped(self, held: Held, detail: Mapping[str, Any], *, ended_alone: bool = False) -> None:
        """Record that an attempt which had to be stopped is gone with all it started; `detail` says how.

        One that `ended_alone`, and may say so itself, is recorded only if its step was cancelled meanwhile.
        """
        text = json.dumps(detail, separators=(",", ":"))
        self._call(held.run_id, "stopped", held.step, held.attempt, held.owner, text, int(ended_alone))

    def advance_due(
        self,
        run_id: str,
        limit: int = 500,
        *,
        expected_us: int | None = None,
        clock_step: int = 0,
        away_s: float = 0.0,
    ) -> DueReport:
        """Do what is due in a run, at most `limit` things, and find what the caller has to look into.

        With `expected_us`, what the server's clock should show (`ServerClock`), nothing is judged while it shows
        something else, nor before the run is shifted by the last step of the clock (`clock_step`). The server was away
        from the caller for `away_s` just before: that does not count for deadline and queue timeouts.
        """
        words = ("" if expected_us is None else expected_us, clock_step, round(away_s * 1e6))
        return due_report_in(self._call(run_id, "advance_due", limit, *words))

    def shift(self, run_id: str, step: ClockStep, lease_s: float) -> bool:
        """Shift the times of a run by a step of the server's clock, unless that was done before."""
        return bool(self._call(run_id, "shift", *step, round(lease_s * 1_000_000)))

    def resend(
        self, run_id: str, step: str, attempt: int, sent_at_us: int, detail: Mapping[str, Any]
    ) -> tuple[Chain, ...]:
        """Return the chain of a queued step whose message is gone, to one caller alone; nothing if there is no need."""
        text = json.dumps(detail, separators=(",", ":"))
        return chains_in(self._call(run_id, "resend", step, attempt, sent_at_us, text))

    def report_shared_queue(self, run_id: str, queue: str, reader: str) -> None:
        """Record that somebody else reads a queue of the run's steps. May stand twice when an answer was lost."""
        self._call(run_id, "queue_shared", json.dumps({"queue": queue, "reader": reader}))

    def cancel(self, run_id: str, reason: str) -> int | None:
        """End a run: every step that has not ended is cancelled. Return their count, None if the run had ended.

        Workers that run some of them are nudged to stop them now, rather than when they renew their leases next.
        """
        count, *workers = self._call(run_id, "cancel", reason, token_hex(6))
        self._nudge(workers)
        return None if count < 0 else cast(int, count)

    def cancel_steps(self, run_id: str, steps: Sequence[str], reason: str) -> tuple[int, tuple[Chain, ...]]:
        """Cancel steps of a run, which goes on; for what is below them they have failed.

        Returns how many had not ended, and the chains to dispatch. Raises StepUnknown.
        """
        try:
            count, chains, *workers = self._call(run_id, "cancel_steps", reason, token_hex(6), *steps)
        except ResponseError as error:
            if str(error).startswith("UNKNOWN"):
                raise StepUnknown(str(error).removeprefix("UNKNOWN ")) from None
            raise
        self._nudge(workers)
        return count, chains_in(chains)

    def resume(
        self,
        run_id: str,
        resets: Sequence[tuple[str, int]],
        *,
        again: Sequence[str] = (),
        gone: Sequence[str] = (),
        staged: Sequence[StagedStep] = (),
        fields: Mapping[str, str | int] | None = None,
        detail: Mapping[str, Any] | None = None,
        seen_resumes: int | None = None,
    ) -> tuple[Chain, ...]:
        """Let a run that has ended without success go on, atomically; gives the chains to dispatch.

        `resets` are the steps that wait anew, each with how many of its upstreams are kept with their success; `again`
        are those among them that had succeeded. All other steps must have succeeded, or be `gone`. `staged` is every
        step of the run as it is to be, empty when nothing changed. With `fields` the run has the deadline among them,
        or none. `code_changed` in `detail` (files) is recorded as an event too. `seen_resumes` is how often the run had
        been resumed when all this was planned. Raises RunUnknown, RunNotEnded, RunSucceeded, AttemptsStopping, and
        ResumedMeanwhile when the run is at another resume than that.
        """
        resume_id = token_hex(6)
        self._stage(run_id, resume_id, staged)
        pairs = [item for pair in (fields or {}).items() for item in pair]
        if staged:
            pairs += ["v", FORMAT]
        changes = self._changes(run_id, staged) if staged else StepChanges()
        told = {
            "again": list(again),
            "gone": list(gone),
            "new": changes.new,
            "rewired": changes.rewired,
            "reset": len(resets),
            **(detail or {}),
        }
        if clock_step := last_step_in(cast("str | None", self.client.get(clock_key(self.prefix)))):
            told["clock_step"] = clock_step
        self.watch_run(run_id)
        try:
            chains = self._call(
                run_id,
                "resume",
                resume_id,
                len(staged),
                "" if seen_resumes is None else seen_resumes,
                json.dumps(told, separators=(",", ":")),
                json.dumps(list(again)),
                json.dumps(list(gone)),
                json.dumps(changes.respecified),
                len(pairs) // 2,
                *pairs,
                *(word for reset in resets for word in reset),
            )
        except ResponseError as error:
            raise resume_refusal(run_id, error) from None
        self._keep_watched(run_id)
        return chains_in(chains)

    def _changes(self, run_id: str, staged: Sequence[StagedStep]) -> StepChanges:
        graphs = cast(dict[str, str], self.client.hgetall(self.key(run_id, "graph")))
        specs = cast(dict[str, str], self.client.hgetall(self.key(run_id, "spec")))
        tried = {step for step, (_, attempt) in self.states(run_id).items() if attempt}
        return step_changes(graphs, specs, tried, staged)

    def claim_alert(self, run_id: str, lease_s: float) -> AlertTry | None:
        """Return the right to tell people that a run failed, for `lease_s`; None when there is nothing to tell now."""
        number, *rest = self._call(run_id, "alert", round(lease_s * 1_000_000))
        return AlertTry(number, tuple(json.loads(rest[0])), rest[1]) if number else None

    def report_alert(
        self,
        run_id: str,
        alert_try: AlertTry,
        told: Sequence[tuple[str, Mapping[str, Any]]],
        sent: Sequence[str] = (),
        retry_in_s: float | None = None,
    ) -> None:
        """Record what came of telling people: events with their details, `sent` (added to what was sent before), and
        when to try again (None: no more). May be said several times for one try, as its targets answer."""
        words = [word for event, detail in told for word in (event, json.dumps(detail, separators=(",", ":")))]
        retry = "" if retry_in_s is None else round(retry_in_s * 1_000_000)
        which = (token_hex(4), alert_try.incident, alert_try.number)
        self._call(run_id, "alerted", *which, retry, json.dumps(list(sent)), *words)

    def _nudge(self, workers: Iterable[str]) -> None:
        """Wake workers that have attempts to stop. No more than a hint: they find them at the next renewal anyway."""
        names = list(workers)
        if not names:
            return
        try:
            with self.client.pipeline(transaction=False) as pipe:
                for name in names:
                    pipe.lpush(self.nudge_key(name), 1)
                    pipe.expire(self.nudge_key(name), NUDGE_KEPT_S)
                pipe.execute()
        except RedisError as error:  # what they are to stop is in the ledger
            logger.warning("workers could not be woken, they stop what was cancelled a little later: %s", error)

    def append_log(
        self,
        run_id: str,
        step: str,
        attempt: int,
        token: int,
        lines: Sequence[str],
        limit: int,
        before: int | None = None,
    ) -> bool:
        """Add lines to an attempt's log, of which the last `limit` are kept. False: the token is no longer current.

        `before` is how many lines the attempt had written before these; with it the call may be repeated.
        """
        place = "" if before is None else before
        return bool(self._call(run_id, "log", step, attempt, token, limit, place, *lines))

    def unwatch_run(self, run_id: str) -> None:
        """Strike a run from the coordinators' list that has ended, or was never started."""
        self.client.srem(f"{self.prefix}:active", run_id)
        state = cast(str | None, self.client.hget(self.key(run_id, "run"), "state"))
        if state and not RunState(state).is_ended:  # it was started just now
            self.watch_run(run_id)

    def _keep_watched(self, run_id: str) -> None:
        """Put a run that is in the ledger by now into the coordinators' list again, for one of them may have struck it
        just before. If that fails they find it by themselves (`unwatched_runs`)."""
        try:
            self.watch_run(run_id)
        except RedisError as error:
            logger.warning("run %s could not be given to the coordinators, which look for it: %s", run_id, error)

    def watch_run(self, run_id: str) -> None:
        """Put a run into the coordinators' list."""
        self.client.sadd(f"{self.prefix}:active", run_id)
