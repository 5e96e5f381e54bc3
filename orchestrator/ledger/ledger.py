"""The ledger's client: one method for each operation of `ledger.lua`, and the reads.

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
from redis.exceptions import NoScriptError, ResponseError

from orchestrator.ledger.states import Outcome, RunState, StepState

SCRIPT = files("orchestrator.ledger").joinpath("ledger.lua").read_text("utf-8")
SCRIPT_SHA = sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()
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
    """A granted claim: the attempt may begin, and only the holder of `token` may commit it."""

    token: int
    spec: dict[str, Any]
    params: dict[str, Any]
    import_path: str
    pipeline: str
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
class Promotion:
    """What `promote_due` found: the run's state (None: no such run), when the next retry is due, what to dispatch."""

    state: RunState | None
    next_due_us: int | None
    now_us: int
    ready: tuple[Chain, ...]

    @property
    def next_due_in_s(self) -> float | None:
        """Give the seconds until the next retry is due; None if there is none."""
        return None if self.next_due_us is None else max(0.0, (self.next_due_us - self.now_us) / 1e6)


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


class Ledger:
    """State of runs in one Redis. Safe to share between threads, as the client is; not across a fork."""

    def __init__(self, client: redis.Redis, prefix: str = "orc") -> None:
        self.client = client
        self.prefix = prefix

    def key(self, run_id: str, part: str) -> str:
        return f"{self.prefix}:{{{run_id}}}:{part}"

    def _call(self, run_id: str, *args: Any) -> Any:
        try:
            return self.client.evalsha(SCRIPT_SHA, 1, self.key(run_id, "run"), *args)
        except NoScriptError:
            return self.client.eval(SCRIPT, 1, self.key(run_id, "run"), *args)

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

    def claim(self, run_id: str, step: str, attempt: int, claim_id: str, worker: str) -> Claim | Refusal:
        """Ask to begin an attempt. The same `claim_id` gets the same answer again."""
        reply = self._call(run_id, "claim", step, attempt, claim_id, worker)
        if not reply[0]:
            return Refusal(reply[1])
        _, token, spec, params, import_path, pipeline, *outputs = reply
        return Claim(
            token,
            json.loads(spec),
            json.loads(params) if params else {},
            import_path,
            pipeline,
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

        `follower` is the step and attempt that Celery publishes next of its own accord. `token` 0 is for a witness
        that never claimed the attempt. May be said twice: the second answer is as good as the first.
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

    def promote_due(self, run_id: str, limit: int = 500) -> Promotion:
        """Queue the retries of a run whose time has come."""
        state, next_due, now, chains = self._call(run_id, "promote", limit)
        return Promotion(
            RunState(state) if state else None,
            int(float(next_due)) if next_due else None,
            int(now),
            _chains(chains),
        )

    def cancel(self, run_id: str, reason: str) -> int | None:
        """End a run: every step that has not ended is cancelled. Gives their count, None if the run had ended."""
        count = self._call(run_id, "cancel", reason)
        return None if count < 0 else count

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
        raw = cast(dict[str, str], self.client.hgetall(self.key(run_id, "state")))
        states = {}
        for step, text in raw.items():
            state, attempt, _ = text.split(" ", 2)
            states[step] = (StepState(state), int(attempt))
        return states

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


def _event(entry: tuple[str, dict[str, str]]) -> Event:
    event_id, fields = entry
    text = fields["detail"]
    detail = json.loads(text) if text.startswith("{") else text
    return Event(event_id, fields["event"], int(fields["at"]), fields["step"], int(fields["attempt"]), detail)


def _chains(raw: Iterable[str]) -> tuple[Chain, ...]:
    return tuple(tuple(Link(*link) for link in json.loads(text)) for text in raw)
