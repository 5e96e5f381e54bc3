"""What can be read of runs in the ledger; nothing here changes anything."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any, cast

from redis import ResponseError

from orchestrator.attempt_id import AttemptId
from orchestrator.errors import FormatUnknown
from orchestrator.ledger.entries import (
    FORMAT,
    StepEntry,
    StepSpec,
    StepSpecs,
    parsed_json,
)
from orchestrator.ledger.events import Event, event_in, event_place
from orchestrator.ledger.front import Front
from orchestrator.ledger.pages import PAGE, list_field, list_in
from orchestrator.ledger.parsing import entries_in, reused_in, since_in, states_in, token_in
from orchestrator.ledger.past import Past
from orchestrator.ledger.standing import Standing
from orchestrator.ledger.states import StepState
from orchestrator.ledger.step_reads import StepReads
from orchestrator.ledger.values import AttemptLog, LeasedAttempt, Reused, RunUnknown, StagedStep

EVENTS_PAGE = 5000
MEASURED_PARTS = (
    "run",
    "graph",
    "children",
    "inputs",
    "spec",
    "state",
    "join",
    "output",
    "uncounted",
    "due",
    "front",
    "events",
)


class LedgerReads(StepReads):
    """Runs in one Redis, to be read. Safe to share between threads, as the client is; not across a
    fork."""

    _page: int = PAGE

    def exists(self, run_id: str) -> bool:
        """Return whether there is such a run."""
        return bool(self.client.exists(self.key(run_id, "run")))

    def bytes_of(self, run_id: str, samples: int) -> int:
        """Return the memory that a run takes on the server, without its logs, in bytes; by
        `samples` of each key."""
        with self.client.pipeline(transaction=False) as pipe:
            for part in MEASURED_PARTS:
                pipe.memory_usage(self.key(run_id, part), samples=samples)
            return sum(size or 0 for size in pipe.execute())

    def run_fields(self, run_id: str) -> dict[str, str]:
        """Return the fields of a run as they are kept. Raises RunUnknown, and FormatUnknown where a
        newer one wrote."""
        fields = cast(dict[str, str], self.client.hgetall(self.key(run_id, "run")))
        if not fields:
            raise RunUnknown(run_id)
        if int(fields.get("v", 0)) > FORMAT:
            raise FormatUnknown(run_id, int(fields["v"]), FORMAT)
        return fields

    def entries(self, run_id: str) -> dict[str, StepEntry]:
        """Return every step's entry in the graph, in the user's order."""
        raw = cast(dict[str, str], self.client.hgetall(self.key(run_id, "graph")))
        return entries_in(raw)

    def specs(self, run_id: str) -> StepSpecs:
        """Return every step's call and options, as the worker gets them."""
        return StepSpecs(cast(dict[str, str], self.client.hgetall(self.key(run_id, "spec"))))

    def states(self, run_id: str) -> dict[str, tuple[StepState, int]]:
        """Return state and current attempt of every step that has left `waiting`."""
        return states_in(cast(dict[str, str], self.client.hgetall(self.key(run_id, "state"))))

    def token(self, run_id: str, step: str) -> int:
        """Return the token of a step's last attempt that began, 0 if none did."""
        text = cast(str | None, self.client.hget(self.key(run_id, "state"), step))
        return token_in(text) if text else 0

    def uncounted(self, run_id: str, step: str) -> int:
        """Return how many attempts of a step do not count against its retries."""
        text = cast(str | None, self.client.hget(self.key(run_id, "uncounted"), step))
        return int(text.split(" ")[1]) if text else 0

    def queued_before(
        self, run_id: str, queue: str, level: int, before_us: int, limit: int = 100
    ) -> list[tuple[str, int, int]]:
        """Return (step, attempt, when its message was last sent) for queued steps of one broker
        list, oldest first."""
        found = cast(
            list[tuple[str, float]],
            self.client.zrangebyscore(
                self.key(run_id, f"queued:{queue}:{level}"),
                "-inf",
                before_us,
                start=0,
                num=limit,
                withscores=True,
            ),
        )
        attempts = self.attempts_in(run_id, [step for step, _ in found], StepState.QUEUED)
        return [(step, attempts[step][0], int(at)) for step, at in found if step in attempts]

    def sent_at_us(self, attempt: AttemptId, queue: str, level: int) -> int | None:
        """Return when the message of a queued attempt was last sent, None if the attempt is not
        queued (any more)."""
        run_id, step, number = attempt
        queued = self.attempts_in(run_id, [step], StepState.QUEUED)
        sent_at = self.client.zscore(self.key(run_id, f"queued:{queue}:{level}"), step)
        is_current = step in queued and queued[step][0] == number
        return int(sent_at) if sent_at is not None and is_current else None

    def attempts_in(
        self, run_id: str, steps: Sequence[str], state: StepState
    ) -> dict[str, tuple[int, int]]:
        """Return (attempt, since when) of those of the steps that are in this state now."""
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
        """Return the attempts of a run that workers hold, by the end of their leases."""
        due = cast(
            list[tuple[str, float]],
            self.client.zrange(self.key(run_id, "due"), 0, -1, withscores=True),
        )
        steps = [step for step, _ in due]
        texts = (
            cast(list[str | None], self.client.hmget(self.key(run_id, "state"), steps))
            if steps
            else []
        )
        found = []
        for (step, until), text in zip(due, texts, strict=True):
            state, attempt, _, at, holder = text.split(" ", 4) if text else ("", "0", "", "0", "")
            if state in (StepState.RUNNING.value, StepState.CANCELLED.value):
                is_stopping = state == StepState.CANCELLED.value
                worker = holder.partition(" ")[0]
                found.append(
                    LeasedAttempt(step, int(attempt), worker, is_stopping, int(at), int(until))
                )
        return found

    def stopping(self, run_id: str) -> list[LeasedAttempt]:
        """Return the attempts of cancelled steps that are not known to be gone yet."""
        return [attempt for attempt in self.leased(run_id) if attempt.is_stopping]

    def submitted_code(self, run_id: str) -> str:
        """Return the digests of the files that the run was submitted or last resumed with, as
        JSON."""
        return cast(str | None, self.client.hget(self.key(run_id, "run"), "code")) or ""

    def staged(self, run_id: str) -> dict[str, StagedStep]:
        """Return every step as it was staged."""
        with self.client.pipeline(transaction=False) as pipe:
            for part in ("graph", "children", "inputs", "spec"):
                pipe.hgetall(self.key(run_id, part))
            graph, children, inputs, specs = cast(list[dict[str, str]], pipe.execute())
        return {
            step: StagedStep(
                step, text, list_in(children, step), list_in(inputs, step), specs[step]
            )
            for step, text in graph.items()
        }

    def due_at(self, run_id: str, step: str) -> int | None:
        """Return when a step must be looked at: its retry is due, its lease or its wait for a
        worker runs out."""
        at = self.client.zscore(self.key(run_id, "due"), step)
        return None if at is None else int(at)

    def now_us(self) -> int:
        """Return the server's clock."""
        seconds, microseconds = self.client.time()
        return seconds * 1_000_000 + microseconds

    def last_event_id(self, run_id: str) -> str:
        """Return the id of the latest event of a run, "0" if there is none."""
        newest = cast(
            list[tuple[str, dict[str, str]]],
            self.client.xrevrange(self.key(run_id, "events"), count=1),
        )
        return newest[0][0] if newest else "0"

    def outputs(self, run_id: str) -> dict[str, str]:
        """Return the JSON text of every output that is not null."""
        return cast(dict[str, str], self.client.hgetall(self.key(run_id, "output")))

    def outputs_for(self, run_id: str, step: str) -> Iterator[dict[str, str]]:
        """Return the JSON text of the outputs that a step reads ("" for null), in the order in
        which it names them, in pages. They stay as they are while an attempt of the step runs."""
        for number in count(1):
            key = self.key(run_id, "inputs")
            text = cast(str | None, self.client.hget(key, list_field(step, number)))
            if not text:
                return
            names = cast(list[str], parsed_json(text))
            texts = cast(list[str | None], self.client.hmget(self.key(run_id, "output"), names))
            yield {name: it or "" for name, it in zip(names, texts, strict=True)}

    def log(self, attempt: AttemptId) -> AttemptLog:
        """Return what is kept of an attempt's log, and how many earlier lines are not."""
        run_id, step, number = attempt
        with self.client.pipeline(transaction=True) as pipe:
            pipe.lrange(self.key(run_id, f"log:{step}:{number}"), 0, -1)
            pipe.hget(self.key(run_id, "dropped"), f"{step}:{number}")
            lines, dropped = pipe.execute()
        return AttemptLog(tuple(lines), int(dropped or 0))

    def secrets(self, run_id: str) -> dict[str, str] | None:
        """Return the secret params of a run; None when it has some, and their values are gone."""
        with self.client.pipeline(transaction=True) as pipe:
            pipe.hget(self.key(run_id, "run"), "secrets")
            pipe.get(self.key(run_id, "secret"))
            names, texts = pipe.execute()
        if not names:
            return {}
        return cast(dict[str, str], json.loads(texts)) if texts else None

    def past(self, run_id: str) -> Past:
        """Return what resumes have replaced of what earlier attempts were given."""
        return Past.of(cast(dict[str, str], self.client.hgetall(self.key(run_id, "past"))))

    def reused(self, run_id: str) -> dict[str, Reused]:
        """Return the steps that are taken over from other runs, and from where."""
        raw = cast(dict[str, str], self.client.hgetall(self.key(run_id, "reused")))
        return {step: reused_in(text) for step, text in raw.items()}

    def standing(self, run_id: str) -> Standing:
        """Return a run as it is at one moment. Raises RunUnknown."""
        client, lists = self.client, None
        while True:
            # the lists of queues are another run's after a resume, hardly ever twice in a row
            with client.pipeline(transaction=True) as pipe:
                for part in ("run", "graph", "spec", "state"):
                    pipe.hgetall(self.key(run_id, part))
                pipe.hgetall(self.key(run_id, "past"))
                pipe.hgetall(self.key(run_id, "reused"))
                pipe.hkeys(self.key(run_id, "output"))
                pipe.zrange(self.key(run_id, "due"), 0, -1)
                pipe.xrevrange(self.key(run_id, "events"), count=1)
                pipe.time()
                pipe.lrange(self.key(run_id, "front"), 0, -1)
                for queue, level in json.loads(lists or "[]"):
                    pipe.zrange(self.key(run_id, f"queued:{queue}:{level}"), 0, -1)
                fields, graph, specs, states, past, reused, outputs, due, newest, now, *rest = (
                    pipe.execute()
                )
            pages, *queued = rest
            if not fields:
                raise RunUnknown(run_id)
            if lists == fields.get("lists"):
                break
            lists = fields.get("lists")
        front = Front.of(pages)
        number = fields.get("resumes", 0)
        past |= {f"spec {number} {step}": specs[step] for step in front.past if step in specs}
        if front.taken:
            graph, specs = (
                cast(dict[str, str], client.hgetall(self.key(run_id, f"{part}~{front.taken}")))
                for part in ("graph", "spec")
            )
        entries = entries_in(graph)
        calls = {step: StepSpec.from_json(text) for step, text in specs.items()}
        last = event_place(newest[0][0]) if newest else (0, 0)
        return Standing(
            fields,
            {step: tuple(calls[step].upstream) for step in entries},
            {step: entry.trigger for step, entry in entries.items()},
            frozenset(step for step, entry in entries.items() if entry.queue_timeout_s),
            states_in(states),
            {step: token_in(text) for step, text in states.items()},
            frozenset(due),
            None if lists is None else Counter(step for steps in queued for step in steps),
            frozenset(outputs),
            tuple(event for event in self.events(run_id) if event_place(event.id) <= last),
            now[0] * 1_000_000 + now[1],
            self._deleted_events(run_id),
            {step: since_in(text) for step, text in states.items()},
            calls,
            Past.of(past),
            {step: reused_in(text) for step, text in reused.items()},
            front,
            self._page,
        )

    def _deleted_events(self, run_id: str) -> int:
        """Return how many entries were deleted from the stream of events, as far as the server
        counts (Redis 7)."""
        try:
            info = self.client.xinfo_stream(self.key(run_id, "events"))
        except ResponseError:  # there is no stream
            return 0
        return int(info.get("entries-added", info["length"])) - int(info["length"])

    def log_lines(self, attempt: AttemptId) -> list[str]:
        return list(self.log(attempt).lines)

    def events(self, run_id: str, after: str = "0") -> Iterator[Event]:
        """Return the events of a run behind the event id `after`, oldest first, read in pages."""
        while True:
            page = cast(
                list[tuple[str, dict[str, str]]],
                self.client.xrange(
                    self.key(run_id, "events"),
                    f"({after}" if after != "0" else "-",
                    "+",
                    EVENTS_PAGE,
                ),
            )
            yield from map(event_in, page)
            if len(page) < EVENTS_PAGE:
                return
            after = page[-1][0]

    def wait_for_events(self, run_id: str, after: str, timeout_s: float) -> list[Event]:
        """Return the next events of a run, waiting for at most `timeout_s`; may be empty."""
        reply = cast(
            list[tuple[str, list[tuple[str, dict[str, str]]]]] | dict[str, Any],
            self.client.xread(
                {self.key(run_id, "events"): after},
                count=EVENTS_PAGE,
                block=max(1, round(timeout_s * 1000)),
            ),
        )
        if not reply:
            return []
        entries = next(iter(reply.values()))[0] if isinstance(reply, dict) else reply[0][1]
        return list(map(event_in, entries))
