"""The ledger's client: one method for each operation of `ledger.lua` and `recovery.lua`, and the reads.

Every write is one atomic call. Times are microseconds since the epoch by the server's clock.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha1
from importlib.resources import files
from secrets import token_hex
from typing import Any, NamedTuple, cast

import redis
from redis.exceptions import NoPermissionError, NoScriptError, ResponseError

from orchestrator.ledger.states import Outcome, RunState, StepState

_TEXT = "\n".join(
    files("orchestrator.ledger").joinpath(name).read_text("utf-8") for name in ("ledger.lua", "recovery.lua")
)
_VERSION = sha1(_TEXT.encode(), usedforsecurity=False).hexdigest()[:12]
FUNCTION = f"orchestrator_{_VERSION}"  # two versions may work on one server
LIBRARY = f"""#!lua name={FUNCTION}
{_TEXT}
redis.register_function('{FUNCTION}', function(keys, args)
  enter(keys, args)
  return ops[args[1]]()
end)
"""
SCRIPT = f"{_TEXT}\nenter(KEYS, ARGV)\nreturn ops[ARGV[1]]()\n"
_SCRIPT_SHA = sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()
DEFAULT_LEASE_S = 6.0
NUDGE_KEPT_S = 10
STAGE_STEPS = 1000  # steps written in one call, so that a huge submit never blocks the server for long
EVENTS_PAGE = 5000


class Link(NamedTuple):
    """One step of a chain, as its message needs it. `timeout_s` is 0 when there is none."""

    step: str
    attempt: int
    queue: str
    priority: int
    timeout_s: float


Chain = tuple[Link, ...]


@dataclass(frozen=True, slots=True)
class StagedStep:
    """A step on its way into the ledger, each part as JSON text; the head of ledger.lua says what is in it.

    `children` and `inputs` are empty text where there are none.
    """

    step: str
    graph: str
    children: str
    inputs: str
    spec: str


@dataclass(frozen=True, slots=True)
class Claim:
    """A granted claim: the attempt may begin, and only the holder of `token` may commit it.

    Tokens grow with every claim of the run, and none comes again even if the server has forgotten the last ones.
    """

    token: int
    spec: dict[str, Any]
    params: dict[str, Any]
    import_path: str
    pipeline: str
    uncounted: int  # attempts before this one that do not count against the step's retries
    outputs: dict[str, str]  # step -> JSON text of its output, "" for null


@dataclass(frozen=True, slots=True)
class Refusal:
    """The ledger said no. That is no error: messages are hints, and a duplicate or a late one gets this answer."""

    reason: str


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit that counts. `ready` are the chains to dispatch now; `is_chain_going_on` says that Celery's own
    chain message may go on with the next link."""

    state: StepState
    is_chain_going_on: bool
    ready: tuple[Chain, ...]


@dataclass(frozen=True, slots=True)
class Held:
    """An attempt as the main process of its worker knows it. `owner` names the process that runs it, see `owner_of`."""

    run_id: str
    step: str
    attempt: int
    owner: str


@dataclass(frozen=True, slots=True)
class ExpiredLease:
    """A running attempt whose lease has run out, and since when."""

    step: str
    attempt: int
    worker: str
    expired_at_us: int


@dataclass(frozen=True, slots=True)
class LeasedAttempt:
    """An attempt that a worker holds: it runs, or is being stopped because its step was cancelled."""

    step: str
    attempt: int
    worker: str
    is_stopping: bool
    since_us: int  # when it was claimed, or cancelled
    lease_until_us: int


@dataclass(frozen=True, slots=True)
class WaitingList:
    """A list of the broker in which messages of a run should lie; the oldest was sent at `oldest_at_us`."""

    queue: str
    level: int
    oldest_at_us: int


@dataclass(frozen=True, slots=True)
class Tended:
    """What `tend` did and found. `state` is None when there is no such run; `ready` is to be dispatched."""

    state: RunState | None
    next_due_us: int | None
    now_us: int
    ready: tuple[Chain, ...]
    expired: tuple[ExpiredLease, ...] = ()
    waiting: tuple[WaitingList, ...] = ()
    alert_at_us: int | None = None

    @property
    def next_due_in_s(self) -> float | None:
        """Give the seconds until something is due; None if nothing is."""
        return None if self.next_due_us is None else max(0.0, (self.next_due_us - self.now_us) / 1e6)

    @property
    def is_over(self) -> bool:
        """Whether nothing will ever have to be done for this run, unless somebody resumes it."""
        return self.state is None or (self.state.is_ended and self.next_due_us is None and self.alert_at_us is None)


@dataclass(frozen=True, slots=True)
class Replaced:
    """What became of a step whose attempt was lost or handed over. `ready` is to be dispatched."""

    state: StepState
    ready: tuple[Chain, ...]


@dataclass(frozen=True, slots=True)
class AlertTry:
    """The right to tell people now that a run failed. `number` counts from 1; `sent` are targets that know already.

    `incident` tells one end of the run from another one after a resume.
    """

    number: int
    sent: tuple[str, ...]
    incident: str


@dataclass(frozen=True, slots=True)
class Event:
    """One change. `id` orders events and continues a reading; `detail` is parsed JSON or plain text."""

    id: str
    event: str
    at_us: int
    step: str
    attempt: int
    detail: Any


class RunExists(Exception):
    """A run of that id is already started."""


class RunUnknown(LookupError):
    """The ledger holds no such run."""


class StepUnknown(LookupError):
    """The run has no such step."""


class RunNotEnded(Exception):
    """Only a run that has ended can be resumed; the text is its state."""


class AttemptsStopping(Exception):
    """`count` attempts of a cancelled run are still being stopped. Until they are gone nothing may run anew."""

    def __init__(self, count: int) -> None:
        super().__init__(f"{count} attempts of the run are still being stopped")
        self.count = count


class ResumedMeanwhile(Exception):
    """Somebody else has resumed the run since this resume was planned."""


def owner_of(worker: str, incarnation: str, pid: int) -> str:
    """Give how the ledger names one process of a worker; the `claim_id` of its claims begins with what follows it.

    The incarnation tells a worker from one of the same name before a restart, whose processes may have had equal ids.
    """
    return f"{worker} {incarnation}.{pid}."


class Ledger:
    """State of runs in one Redis. Safe to share between threads, as the client is; not across a fork."""

    def __init__(self, client: redis.Redis, prefix: str = "orc") -> None:
        self.client = client
        self.prefix = prefix
        self._has_functions = True  # until the server says otherwise

    def key(self, run_id: str, part: str) -> str:
        return f"{self.prefix}:{{{run_id}}}:{part}"

    def _call(self, run_id: str, *args: Any) -> Any:
        return self._calls([(run_id, args)])[0]

    def _calls(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        """Do operations, several of them in one round trip; each is atomic by itself.

        They are a function of the server, loaded when it is not there yet. A server without functions (before Redis 7)
        or that lets us load none gets a script, which costs it about 8 µs more a call to set up.
        """
        try:
            return self._send(calls)
        except ResponseError as error:
            if not self._provide(error):
                raise
        return self._calls(calls)  # at most from the function to the script, which is loaded next

    def _send(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        if len(calls) == 1:
            run_id, args = calls[0]
            if self._has_functions:
                return [self.client.fcall(FUNCTION, 1, self.key(run_id, "run"), *args)]
            return [self.client.evalsha(_SCRIPT_SHA, 1, self.key(run_id, "run"), *args)]
        with self.client.pipeline(transaction=False) as pipe:
            for run_id, args in calls:
                if self._has_functions:
                    pipe.fcall(FUNCTION, 1, self.key(run_id, "run"), *args)
                else:
                    pipe.evalsha(_SCRIPT_SHA, 1, self.key(run_id, "run"), *args)
            return pipe.execute()

    def _provide(self, error: ResponseError) -> bool:
        """Load what the server said it has not; False if the error was another one."""
        if self._has_functions and "function not found" in str(error).lower():
            try:
                self.client.function_load(LIBRARY)
            except ResponseError as refusal:
                self._has_functions = "already exists" in str(refusal)  # or somebody else was faster
            return True
        if self._has_functions and (isinstance(error, NoPermissionError) or "unknown command" in str(error).lower()):
            self._has_functions = False
            return True
        if isinstance(error, NoScriptError):
            self.client.script_load(SCRIPT)
            return True
        return False

    # -- writes ------------------------------------------------------------------------------------------------

    def start(
        self, run_id: str, steps: Iterable[StagedStep], roots: Sequence[str], fields: Mapping[str, str | int]
    ) -> tuple[Chain, ...]:
        """Write a run and queue its roots, which it gives back as chains to dispatch.

        The run exists from the last call on, at once and whole. Raises RunExists.
        """
        count = 0
        batch: list[str] = []
        try:
            for staged in steps:
                batch += (staged.step, staged.graph, staged.children, staged.inputs, staged.spec)
                count += 1
                if count % STAGE_STEPS == 0:
                    self._call(run_id, "stage", count - STAGE_STEPS, *batch)
                    batch = []
            if batch or not count:
                self._call(run_id, "stage", count - len(batch) // 5, *batch)
            pairs = [item for pair in fields.items() for item in pair]
            self.client.sadd(f"{self.prefix}:active", run_id)
            start_id = token_hex(6)
            chains = self._call(run_id, "start", count, start_id, json.dumps(list(roots)), *pairs)
        except ResponseError as error:
            if str(error).startswith("EXISTS"):
                raise RunExists(run_id) from None
            raise
        self.client.sadd(f"{self.prefix}:active", run_id)  # a coordinator may have struck it before it was started
        created_at = self.client.hget(self.key(run_id, "run"), "created_at")
        self.client.zadd(f"{self.prefix}:runs", {run_id: float(cast(str, created_at))})
        return _chains(chains)

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
        if not reply[0]:
            return Refusal(reply[1])
        _, token, spec, params, import_path, pipeline, uncounted, *outputs = reply
        return Claim(
            token,
            json.loads(spec),
            json.loads(params) if params else {},
            import_path,
            pipeline,
            uncounted,
            dict(zip(outputs[::2], outputs[1::2], strict=True)) if outputs else {},
        )

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
    ) -> Commit | Refusal:
        """Record how an attempt ended; joins, cancellations below it and events happen in the same call.

        `follower` is the step and attempt that Celery publishes next of its own accord. `token` 0 is for who ended an
        attempt without having claimed it; then `worker` is its owner. May be said twice: the second answer is as good
        as the first.
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
        )
        if not reply[0]:
            return Refusal(reply[1])
        return Commit(StepState(reply[1]), bool(reply[2]), _chains(reply[3]))

    def report_lost(
        self, run_id: str, step: str, attempt: int, detail: Mapping[str, Any], *, token: int = 0, owner: str = ""
    ) -> Replaced | Refusal:
        """Record that an attempt is over without an end of its own: it is replaced, or its step fails when it has lost
        as many as it may. Who neither has the token nor is its owner is believed only when the lease has run out.

        `detail` has error (type, message) and found. May be said twice by the token or the owner; of many who only saw
        the lease run out, one is believed.
        """
        return self._replace(run_id, step, attempt, token, owner, "lost", {"outcome": Outcome.LOST.value, **detail})

    def hand_over(
        self, run_id: str, step: str, attempt: int, reason: str, *, token: int = 0, owner: str = ""
    ) -> Replaced | Refusal:
        """Give a running attempt up, so that another worker goes on with the step; no failure, and no lost attempt."""
        detail = {"outcome": Outcome.HANDED_OVER.value, "reason": reason}
        return self._replace(run_id, step, attempt, token, owner, Outcome.HANDED_OVER.value, detail)

    def _replace(
        self, run_id: str, step: str, attempt: int, token: int, owner: str, kind: str, detail: Mapping[str, Any]
    ) -> Replaced | Refusal:
        # The script adds words to the error's message when this was one too many: the message comes last.
        told = dict(detail)
        tail = 0
        if error := dict(told.pop("error", None) or {}):
            message = error.pop("message", "")
            told["error"] = {**error, "message": message}
            tail = len('"}}')
        text = json.dumps(told, separators=(",", ":"))
        reply = self._call(run_id, "lost", step, attempt, token, owner, kind, text, tail)
        return Replaced(StepState(reply[1]), _chains(reply[2])) if reply[0] else Refusal(reply[1])

    def renew(self, held: Sequence[Held], lease_s: float) -> dict[Held, str]:
        """Renew the leases of a worker's attempts, of any runs, in one round trip.

        Gives those that are to be stopped, with the reason: "cancelled", or "fenced" when somebody took over.
        """
        by_run: dict[str, list[Held]] = {}
        for attempt in held:
            by_run.setdefault(attempt.run_id, []).append(attempt)
        if not by_run:
            return {}
        lease_us = round(lease_s * 1_000_000)
        replies = self._calls(
            [
                (run_id, ["renew", lease_us, *(word for it in attempts for word in (it.step, it.attempt, it.owner))])
                for run_id, attempts in by_run.items()
            ]
        )
        return {
            attempts[place - 1]: why
            for attempts, reply in zip(by_run.values(), replies, strict=True)
            for place, why in zip(reply[::2], reply[1::2], strict=True)
        }

    def report_stopped(self, held: Held, detail: Mapping[str, Any]) -> None:
        """Record that an attempt which had to be stopped is gone with all it started; `detail` says how."""
        text = json.dumps(detail, separators=(",", ":"))
        self._call(held.run_id, "stopped", held.step, held.attempt, held.owner, text)

    def tend(self, run_id: str, limit: int = 500) -> Tended:
        """Do what is due in a run, at most `limit` things, and find what the caller has to look into."""
        state, next_due, now, chains, expired, waiting, alert_at = self._call(run_id, "tend", limit)
        return Tended(
            RunState(state) if state else None,
            int(float(next_due)) if next_due else None,
            int(now),
            _chains(chains),
            tuple(
                ExpiredLease(step, attempt, worker, int(float(at)))
                for step, attempt, worker, at in map(json.loads, expired)
            ),
            tuple(WaitingList(queue, int(level), int(float(at))) for queue, level, at in json.loads(waiting)),
            int(alert_at) if alert_at else None,
        )

    def resend(
        self, run_id: str, step: str, attempt: int, sent_at_us: int, detail: Mapping[str, Any]
    ) -> tuple[Chain, ...]:
        """Give the chain of a queued step whose message is gone, to one caller alone; nothing if there is no need."""
        text = json.dumps(detail, separators=(",", ":"))
        return _chains(self._call(run_id, "resend", step, attempt, sent_at_us, text))

    def cancel(self, run_id: str, reason: str) -> int | None:
        """End a run: every step that has not ended is cancelled. Gives their count, None if the run had ended.

        Workers that run some of them are nudged to stop them now, rather than when they renew their leases next.
        """
        count, *workers = self._call(run_id, "cancel", reason)
        self._nudge(workers)
        return None if count < 0 else cast(int, count)

    def cancel_steps(self, run_id: str, steps: Sequence[str], reason: str) -> tuple[int, tuple[Chain, ...]]:
        """Cancel steps of a run, which goes on; for what is below them they have failed.

        Gives how many had not ended, and the chains to dispatch. Raises StepUnknown.
        """
        try:
            count, chains, *workers = self._call(run_id, "cancel_steps", reason, *steps)
        except ResponseError as error:
            if str(error).startswith("UNKNOWN"):
                raise StepUnknown(str(error).removeprefix("UNKNOWN ")) from None
            raise
        self._nudge(workers)
        return count, _chains(chains)

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
        """Let a run that has ended go on, atomically; gives the chains to dispatch.

        `resets` are the steps that wait anew, each with how many of its upstreams are kept with their success; `again`
        are those among them that had succeeded. All other steps must have succeeded, or be `gone`. `staged` is every
        step of the run as it is to be, empty when nothing changed. With `fields` the run has the deadline among them,
        or none. `code_changed` in `detail` (files) is recorded as an event too. `seen_resumes` is how often the run had
        been resumed when all this was planned. Raises RunUnknown, RunNotEnded, AttemptsStopping, and ResumedMeanwhile
        when the run is at another resume than that.
        """
        resume_id = token_hex(6)
        for begin in range(0, len(staged), STAGE_STEPS):
            page = staged[begin : begin + STAGE_STEPS]
            words = [word for it in page for word in (it.step, it.graph, it.children, it.inputs, it.spec)]
            self._call(run_id, "stage_again", resume_id, *words)
        pairs = [item for pair in (fields or {}).items() for item in pair]
        new, rewired = self._rewiring(run_id, staged) if staged else ([], [])
        told = {
            "again": list(again),
            "gone": list(gone),
            "new": new,
            "rewired": rewired,
            "reset": len(resets),
            **(detail or {}),
        }
        self.client.sadd(f"{self.prefix}:active", run_id)
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
                len(pairs) // 2,
                *pairs,
                *(word for reset in resets for word in reset),
            )
        except ResponseError as error:
            kind, _, rest = str(error).partition(" ")
            if kind == "UNKNOWN":
                raise RunUnknown(run_id) from None
            if kind == "RUNNING":
                raise RunNotEnded(rest) from None
            if kind == "STOPPING":
                raise AttemptsStopping(int(rest)) from None
            if kind == "RESUMED":
                raise ResumedMeanwhile(run_id) from None
            raise
        self.client.sadd(f"{self.prefix}:active", run_id)  # a coordinator may have struck it before it was resumed
        return _chains(chains)

    def _rewiring(self, run_id: str, staged: Sequence[StagedStep]) -> tuple[list[str], list[str]]:
        """Give the steps that a resume adds, and those to which it gives other upstreams or another trigger rule."""
        graphs = cast(dict[str, str], self.client.hgetall(self.key(run_id, "graph")))
        specs = cast(dict[str, str], self.client.hgetall(self.key(run_id, "spec")))
        new, rewired = [], []
        for it in staged:
            if it.step not in graphs:
                new.append(it.step)
                continue
            graph, spec = graphs[it.step], specs[it.step]
            has_other_rule = it.graph != graph and json.loads(it.graph).get("t") != json.loads(graph).get("t")
            if has_other_rule or (it.spec != spec and _upstream_in(it.spec) != _upstream_in(spec)):
                rewired.append(it.step)
        return new, rewired

    def claim_alert(self, run_id: str, lease_s: float) -> AlertTry | None:
        """Give the right to tell people that a run failed, for `lease_s`; None when there is nothing to tell now."""
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
        with self.client.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.lpush(self.nudge_key(name), 1)
                pipe.expire(self.nudge_key(name), NUDGE_KEPT_S)
            pipe.execute()

    def nudge_key(self, worker: str) -> str:
        """Give the list that a worker's main process waits at between two renewals."""
        return f"{self.prefix}:nudge:{worker}"

    def append_log(self, run_id: str, step: str, attempt: int, token: int, lines: Sequence[str], limit: int) -> bool:
        """Add lines to an attempt's log, of which the last `limit` are kept. False: the token is no longer current."""
        return bool(self._call(run_id, "log", step, attempt, token, limit, *lines))

    def forget_active(self, run_id: str) -> None:
        """Strike a run from the coordinators' list that has ended, or was never started."""
        self.client.srem(f"{self.prefix}:active", run_id)
        state = cast(str | None, self.client.hget(self.key(run_id, "run"), "state"))
        if state and not RunState(state).is_ended:  # it was started just now
            self.client.sadd(f"{self.prefix}:active", run_id)

    # -- reads -------------------------------------------------------------------------------------------------

    def active_runs(self) -> list[str]:
        """Give the runs that have not ended, as far as coordinators have noticed."""
        return sorted(cast(set[str], self.client.smembers(f"{self.prefix}:active")))

    def recent_runs(self, limit: int) -> list[str]:
        """Give run ids, newest first."""
        return cast(list[str], self.client.zrevrange(f"{self.prefix}:runs", 0, limit - 1))

    def run_fields(self, run_id: str) -> dict[str, str]:
        """Give the fields of a run as they are kept. Raises RunUnknown."""
        fields = cast(dict[str, str], self.client.hgetall(self.key(run_id, "run")))
        if not fields:
            raise RunUnknown(run_id)
        return fields

    def graph(self, run_id: str) -> dict[str, dict[str, Any]]:
        """Give every step's place in the graph (keys as at the head of ledger.lua), in the user's order."""
        raw = cast(dict[str, str], self.client.hgetall(self.key(run_id, "graph")))
        graph = {step: json.loads(text) for step, text in raw.items()}
        return dict(sorted(graph.items(), key=lambda item: cast(int, item[1]["x"])))

    def specs(self, run_id: str) -> dict[str, dict[str, Any]]:
        """Give every step's call and options, as the worker gets them."""
        raw = cast(dict[str, str], self.client.hgetall(self.key(run_id, "spec")))
        return {step: json.loads(text) for step, text in raw.items()}

    def spec(self, run_id: str, step: str) -> dict[str, Any] | None:
        """Give one step's call and options, None if there is no such step."""
        text = cast(str | None, self.client.hget(self.key(run_id, "spec"), step))
        return json.loads(text) if text else None

    def states(self, run_id: str) -> dict[str, tuple[StepState, int]]:
        """Give state and current attempt of every step that has left `waiting`."""
        return states_in(cast(dict[str, str], self.client.hgetall(self.key(run_id, "state"))))

    def token(self, run_id: str, step: str) -> int:
        """Give the token of a step's last attempt that began, 0 if none did."""
        text = cast(str | None, self.client.hget(self.key(run_id, "state"), step))
        return token_in(text) if text else 0

    def uncounted(self, run_id: str, step: str) -> int:
        """Give how many attempts of a step do not count against its retries."""
        text = cast(str | None, self.client.hget(self.key(run_id, "uncounted"), step))
        return int(text.split(" ")[1]) if text else 0

    def queued_before(
        self, run_id: str, queue: str, level: int, before_us: int, limit: int = 100
    ) -> list[tuple[str, int, int]]:
        """Give (step, attempt, when its message was last sent) for queued steps of one broker list, oldest first."""
        found = cast(
            list[tuple[str, float]],
            self.client.zrangebyscore(
                self.key(run_id, f"queued:{queue}:{level}"), "-inf", before_us, start=0, num=limit, withscores=True
            ),
        )
        attempts = self.attempts_in(run_id, [step for step, _ in found], StepState.QUEUED)
        return [(step, attempts[step][0], int(at)) for step, at in found if step in attempts]

    def sent_at_us(self, run_id: str, queue: str, level: int, step: str, attempt: int) -> int | None:
        """Give when the message of a queued attempt was last sent, None if the attempt is not queued (any more)."""
        attempts = self.attempts_in(run_id, [step], StepState.QUEUED)
        sent_at = self.client.zscore(self.key(run_id, f"queued:{queue}:{level}"), step)
        return int(sent_at) if sent_at is not None and step in attempts and attempts[step][0] == attempt else None

    def attempts_in(self, run_id: str, steps: Sequence[str], state: StepState) -> dict[str, tuple[int, int]]:
        """Give (attempt, since when) of those of the steps that are in this state now."""
        if not steps:
            return {}
        texts = cast(list[str | None], self.client.hmget(self.key(run_id, "state"), list(steps)))
        found = {}
        for step, text in zip(steps, texts, strict=True):
            is_state, attempt, _, at, _ = text.split(" ", 4) if text else ("", "0", "", "0", "")
            if is_state == state.value:
                found[step] = int(attempt), int(at)
        return found

    def leased(self, run_id: str) -> list[LeasedAttempt]:
        """Give the attempts of a run that workers hold, by the end of their leases."""
        due = cast(list[tuple[str, float]], self.client.zrange(self.key(run_id, "due"), 0, -1, withscores=True))
        steps = [step for step, _ in due]
        texts = cast(list[str | None], self.client.hmget(self.key(run_id, "state"), steps)) if steps else []
        found = []
        for (step, until), text in zip(due, texts, strict=True):
            state, attempt, _, at, holder = text.split(" ", 4) if text else ("", "0", "", "0", "")
            if state in (StepState.RUNNING.value, StepState.CANCELLED.value):
                is_stopping = state == StepState.CANCELLED.value
                worker = holder.partition(" ")[0]
                found.append(LeasedAttempt(step, int(attempt), worker, is_stopping, int(at), int(until)))
        return found

    def stopping(self, run_id: str) -> list[LeasedAttempt]:
        """Give the attempts of cancelled steps that are not known to be gone yet."""
        return [attempt for attempt in self.leased(run_id) if attempt.is_stopping]

    def staged(self, run_id: str) -> dict[str, StagedStep]:
        """Give every step as it was staged."""
        with self.client.pipeline(transaction=False) as pipe:
            for part in ("graph", "children", "inputs", "spec"):
                pipe.hgetall(self.key(run_id, part))
            graph, children, inputs, specs = cast(list[dict[str, str]], pipe.execute())
        return {
            step: StagedStep(step, text, children.get(step, ""), inputs.get(step, ""), specs[step])
            for step, text in graph.items()
        }

    def due_at(self, run_id: str, step: str) -> int | None:
        """Give when a step must be looked at: its retry is due, its lease or its wait for a worker runs out."""
        at = self.client.zscore(self.key(run_id, "due"), step)
        return None if at is None else int(at)

    def now_us(self) -> int:
        """Give the server's clock."""
        seconds, microseconds = self.client.time()
        return seconds * 1_000_000 + microseconds

    def last_event_id(self, run_id: str) -> str:
        """Give the id of the latest event of a run, "0" if there is none."""
        newest = cast(list[tuple[str, dict[str, str]]], self.client.xrevrange(self.key(run_id, "events"), count=1))
        return newest[0][0] if newest else "0"

    def outputs(self, run_id: str) -> dict[str, str]:
        """Give the JSON text of every output that is not null."""
        return cast(dict[str, str], self.client.hgetall(self.key(run_id, "output")))

    def log_lines(self, run_id: str, step: str, attempt: int) -> list[str]:
        return cast(list[str], self.client.lrange(self.key(run_id, f"log:{step}:{attempt}"), 0, -1))

    def events(self, run_id: str, after: str = "0") -> Iterator[Event]:
        """Give the events of a run behind the event id `after`, oldest first, read in pages."""
        while True:
            page = cast(
                list[tuple[str, dict[str, str]]],
                self.client.xrange(self.key(run_id, "events"), f"({after}" if after != "0" else "-", "+", EVENTS_PAGE),
            )
            yield from map(_event, page)
            if len(page) < EVENTS_PAGE:
                return
            after = page[-1][0]

    def wait_for_events(self, run_id: str, after: str, timeout_s: float) -> list[Event]:
        """Give the next events of a run, waiting for at most `timeout_s`; may be empty."""
        reply = cast(
            list[tuple[str, list[tuple[str, dict[str, str]]]]] | dict[str, Any],
            self.client.xread(
                {self.key(run_id, "events"): after}, count=EVENTS_PAGE, block=max(1, round(timeout_s * 1000))
            ),
        )
        if not reply:
            return []
        entries = next(iter(reply.values()))[0] if isinstance(reply, dict) else reply[0][1]
        return list(map(_event, entries))


def _upstream_in(spec: str) -> set[str]:
    return set(json.loads(spec).get("upstream", ()))


def states_in(raw: Mapping[str, str]) -> dict[str, tuple[StepState, int]]:
    """Give state and current attempt of every step of a state hash."""
    states = {}
    for step, text in raw.items():
        state, attempt, _ = text.split(" ", 2)
        states[step] = (StepState(state), int(attempt))
    return states


def token_in(text: str) -> int:
    """Give the token in one value of a state hash, 0 for none."""
    return int(text.split(" ", 3)[2])


def _event(entry: tuple[str, dict[str, str]]) -> Event:
    event_id, fields = entry
    text = fields["detail"]
    detail = json.loads(text) if text.startswith("{") else text
    return Event(event_id, fields["event"], int(fields["at"]), fields["step"], int(fields["attempt"]), detail)


def _chains(raw: Iterable[str]) -> tuple[Chain, ...]:
    return tuple(tuple(Link(*link) for link in json.loads(text)) for text in raw)
