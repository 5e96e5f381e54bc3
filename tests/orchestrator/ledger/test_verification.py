"""Nothing is wrong with the record of a run that went as it may, and all that is wrong with a
forged one is found."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.attempt_id import AttemptId
from orchestrator.ledger.events import Event, EventKind
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.script import SCRIPT
from orchestrator.ledger.staging import staged_steps
from orchestrator.ledger.states import Outcome, RunState, StepState
from orchestrator.ledger.values import BackOff, RunUnknown
from orchestrator.record.replay import GRAIN_US, Replay, replay_events
from orchestrator.record.run import read_record
from orchestrator.record.verification import verify_run
from tests.support.rules import judge
from tests.support.runs import RULES, SETTINGS, Graph, begin, graph, run_state, start, start_graph

UPSTREAM = {"a": "", "b": "a", "c": "a b", "x": "", "y": "x", "tidy": "y c"}
TIDY = {"tidy": "all_done"}
RawEvent = tuple[str, dict[str, str]]
Tampering = Callable[[Ledger, str], object]


def end(
    ledger: Ledger,
    run_id: str,
    step: str,
    attempt: int = 1,
    outcome: Outcome = Outcome.SUCCEEDED,
    **more,
) -> None:
    ledger.commit(
        AttemptId(run_id, step, attempt), begin(ledger, run_id, step, attempt), "w", outcome, **more
    )


def half_a_run(ledger: Ledger) -> str:
    """Return a run in which a was retried and has succeeded, b was lost and runs again, x has
    failed."""
    run_id = start_graph(ledger, UPSTREAM, TIDY, {"a": {"queue_timeout": 3600.0}})
    end(ledger, run_id, "a", outcome=Outcome.FAILED, retry_in_s=0.0)
    ledger.advance_due(run_id)
    end(ledger, run_id, "a", 2, output="1")
    begin(ledger, run_id, "b")
    ledger.report_lost(
        AttemptId(run_id, "b", 1), {"error": {"type": "ProcessLost", "message": "gone"}}, owner="w"
    )
    end(ledger, run_id, "x", outcome=Outcome.FAILED)
    begin(ledger, run_id, "b", 2)
    return run_id


def ended_run(ledger: Ledger) -> str:
    run_id = half_a_run(ledger)
    token = int(ledger.run_fields(run_id)["token"])
    ledger.commit(AttemptId(run_id, "b", 2), token, "w", Outcome.SUCCEEDED)
    end(ledger, run_id, "c")
    end(ledger, run_id, "tidy")
    assert run_state(ledger, run_id) == "failed"
    return run_id


def put_back_run(ledger: Ledger) -> str:
    """Return a run in which a was put back, and is not due yet."""
    run_id = start_graph(ledger, UPSTREAM, TIDY)
    token = begin(ledger, run_id, "a")
    ledger.put_back(
        AttemptId(run_id, "a", 1), {"reason": "full", "host": "h"}, BackOff(60.0, 60.0), token=token
    )
    return run_id


def resumed_run(ledger: Ledger) -> str:
    """Return a run that was resumed after its failure: x runs anew, and a, b, c were asked for
    again."""
    run_id = ended_run(ledger)
    ledger.resume(
        run_id,
        [("a", 0), ("b", 0), ("c", 0), ("x", 0), ("y", 0), ("tidy", 0)],
        again=["a", "b", "c", "tidy"],
    )
    begin(ledger, run_id, "x", 2)
    return run_id


def rewrite(
    ledger: Ledger, run_id: str, change: Callable[[list[RawEvent]], list[RawEvent]]
) -> None:
    """Write the events of a run anew: those that `change` gives. One without an id gets the first
    that is free."""
    key = ledger.key(run_id, "events")
    events = ledger.client.xrange(key)
    ledger.client.delete(key)
    changed = change(events)
    kept = {event_id for event_id, _ in changed}
    free = (event_id for event_id, _ in events if event_id not in kept)
    for event_id, fields in changed:
        ledger.client.xadd(key, fields, event_id or next(free))


def place_of(events: list[RawEvent], event: str, step: str, attempt: int) -> int:
    wanted = (event, step, str(attempt))
    return next(
        i for i, (_, it) in enumerate(events) if (it["event"], it["step"], it["attempt"]) == wanted
    )


def without(event: str, step: str = "", attempt: int = 0) -> Tampering:
    def tamper(ledger: Ledger, run_id: str) -> None:
        def change(events: list[RawEvent]) -> list[RawEvent]:
            place = place_of(events, event, step, attempt)
            return events[:place] + events[place + 1 :]

        rewrite(ledger, run_id, change)

    return tamper


def changed(
    event: str, step: str = "", attempt: int = 0, /, **fields: str | int | None
) -> Tampering:
    """Tamper with the fields of an event; None takes one away."""

    def tamper(ledger: Ledger, run_id: str) -> None:
        def change(events: list[RawEvent]) -> list[RawEvent]:
            place = place_of(events, event, step, attempt)
            changed = {**events[place][1], **fields}
            left = {name: str(value) for name, value in changed.items() if value is not None}
            return [*events[:place], ("", left), *events[place + 1 :]]

        rewrite(ledger, run_id, change)

    return tamper


def moved(event: tuple[str, str, int], before: tuple[str, str, int]) -> Tampering:
    """Move an event to before another one, at the same time."""

    def tamper(ledger: Ledger, run_id: str) -> None:
        def change(events: list[RawEvent]) -> list[RawEvent]:
            place, target = place_of(events, *event), place_of(events, *before)
            it = {**events[place][1], "at": events[target][1]["at"]}
            rest = [fields for _, fields in events[:place] + events[place + 1 :]]
            fields = [*rest[:target], it, *rest[target:]]
            return [(event_id, it) for (event_id, _), it in zip(events, fields, strict=True)]

        rewrite(ledger, run_id, change)

    return tamper


def added(event: str, step: str = "", attempt: int = 0, detail: Any = "") -> Tampering:
    """Add a false event at the end."""

    def tamper(ledger: Ledger, run_id: str) -> None:
        seconds, microseconds = ledger.client.time()
        text = detail if isinstance(detail, str) else json.dumps(detail)
        fields = {
            "event": event,
            "at": seconds * 1_000_000 + microseconds,
            "step": step,
            "attempt": attempt,
        }
        ledger.client.xadd(ledger.key(run_id, "events"), {**fields, "detail": text})

    return tamper


def on_key(part: str, command: str, *words: object) -> Tampering:
    return lambda ledger, run_id: ledger.client.execute_command(
        command, ledger.key(run_id, part), *words
    )


def with_token_of(step: str, other: str) -> Tampering:
    def tamper(ledger: Ledger, run_id: str) -> None:
        key = ledger.key(run_id, "state")
        state, attempt, _, rest = ledger.client.hget(key, step).split(" ", 3)
        ledger.client.hset(key, step, f"{state} {attempt} {ledger.token(run_id, other)} {rest}")

    return tamper


def sentences(ledger: Ledger, run_id: str) -> tuple[str, ...]:
    return verify_run(ledger, run_id).violations


@pytest.mark.parametrize("make", [half_a_run, ended_run, resumed_run])
def test_a_run_that_went_as_it_may_has_no_violation(
    ledger: Ledger, make: Callable[[Ledger], str]
) -> None:
    run_id = make(ledger)

    verification = verify_run(ledger, run_id)

    assert verification.violations == ()
    assert verification.run_id == run_id
    assert verification.state is RunState(run_state(ledger, run_id))
    events = [event.kind for event in ledger.events(run_id)]
    assert (verification.events, verification.steps) == (len(events), 6)
    assert verification.attempts == events.count("step.started")
    assert verification.repairs == 1


def test_a_run_without_steps_and_one_that_has_just_begun_have_no_violation(ledger: Ledger) -> None:
    for upstream in ({}, {"a": "", "alarm": "", "page": "alarm"}):
        run_id, _ = start(
            ledger, graph(upstream, {"alarm": "one_failed"} if upstream else {}).plan()
        )
        assert sentences(ledger, run_id) == ()


def test_a_run_that_is_not_there_is_unknown(ledger: Ledger) -> None:
    with pytest.raises(RunUnknown):
        verify_run(ledger, "gone")


TOLD_BY_EVENTS: dict[str, tuple[Callable[[Ledger], str], Tampering, str]] = {
    "a step that ran before its upstream ended": (
        ended_run, moved(("step.queued", "b", 1), ("step.succeeded", "a", 2)),
        r"step.queued of step 'b' at attempt 1 \(event .*\), but by its rule all_success it must be waiting: "
        "upstream 'a' is running",
    ),
    "a step below a failure that ran": (
        ended_run, changed("step.upstream_failed", "y", 0, event="step.queued", attempt=1),
        r"step.queued of step 'y' at attempt 1 \(event .*\), but by its rule all_success it must be upstream_failed: "
        "upstream 'x' is failed",
    ),
    "a step that was skipped though it may run": (
        ended_run, changed("step.queued", "tidy", 1, event="step.skipped", attempt=0),
        r"step.skipped of step 'tidy' .*, but by its rule all_done it must be queued: upstream 'y' is upstream_failed",
    ),
    "a step that waits in vain": (
        half_a_run, without("step.upstream_failed", "y"),
        "step 'y' waits, but by its rule all_success it must be upstream_failed: upstream 'x' is failed",
    ),
    "a second success": (
        half_a_run, added("step.succeeded", "a", 2),
        r"step 'a' has a second committed success \(event .*\)",
    ),
    "a success that nothing began": (
        half_a_run, added("step.succeeded", "c", 0),
        r"step.succeeded of step 'c' at attempt 0 \(event .*\), but the step was waiting at attempt 0",
    ),
    "a start of what has ended": (
        half_a_run, added("step.started", "x", 1, "w"),
        r"step.started of step 'x' .*, but the step was failed at attempt 1",
    ),
    "an attempt without an end": (
        ended_run, without("step.succeeded", "c", 1),
        r"run.failed \(event .*\), but attempt 1 of step 'c' has no end",
    ),
    "a retry of what has no end": (
        ended_run, without("attempt.lost", "b", 1),
        r"step.queued of step 'b' at attempt 2 \(event .*\), but attempt 1 has no end",
    ),
    "a success of what was lost": (
        ended_run, changed("step.queued", "b", 2, event="step.succeeded", attempt=1),
        r"step.succeeded of step 'b' at attempt 1 \(event .*\), but this attempt was lost or handed over before",
    ),
    "a loss of what does not run": (
        half_a_run, added("attempt.lost", "a", 2, {}),
        r"attempt.lost of step 'a' .*, but the step was succeeded at attempt 2",
    ),
    "a loss of another attempt": (
        half_a_run, added("attempt.lost", "b", 1, {}),
        r"attempt.lost of step 'b' at attempt 1 .*, but the step was running at attempt 2",
    ),
    "a loss that nothing followed": (
        half_a_run, added("attempt.lost", "b", 2, {}),
        "attempt 2 of step 'b' was lost or handed over, and nothing followed",
    ),
    "a going back that nothing followed": (
        half_a_run, added("attempt.put_back", "b", 2, {}),
        "attempt 2 of step 'b' was put back, and nothing followed",
    ),
    "a success of what was put back": (
        put_back_run, changed("step.retrying", "a", 1, event="step.succeeded"),
        r"step.succeeded of step 'a' at attempt 1 \(event .*\), but this attempt was put back before",
    ),
    "a return without its name": (
        put_back_run, changed("step.retrying", "a", 1,
        detail='{"outcome":"failed","due_at":9999999999999999}'),
        r"step.retrying of step 'a' at attempt 1 \(event .*\), but this attempt was put back before",
    ),
    "a retry that is never due": (
        half_a_run, changed("step.retrying", "a", 1, detail='{"outcome":"failed"}', due_at=None),
        r"step.retrying of step 'a' at attempt 1 \(event .*\) does not say when the next attempt is due",
    ),
    "a false reason": (
        ended_run, changed("step.upstream_failed", "y", 0, detail='{"because":"a"}'),
        r"step.upstream_failed of step 'y' at attempt 0 \(event .*\) says that 'a' has decided it, but that was 'x'",
    ),
    "an end without a reason": (
        ended_run, changed("step.upstream_failed", "y", 0, detail=""),
        r"step.upstream_failed of step 'y' at attempt 0 .* says that None has decided it, but that was 'x'",
    ),
    "a step's name at an event of the run": (
        ended_run, changed("run.failed", step="a", attempt=1),
        r"run.failed of step 'a' at attempt 1 \(event .*\) is of the whole run, and may not name a step",
    ),
    "a field that there is not": (
        ended_run, changed("step.started", "c", 1, host="h", pid=1),
        r"step.started of step 'c' at attempt 1 \(event .*\) has what no event has: host, pid",
    ),
    "an event of no kind": (
        half_a_run, added("queue.exploded"),
        r"queue.exploded \(event .*\) is not an event that a run has",
    ),
    "a time of a part that is not that of the whole": (
        ended_run, changed("run.failed", at=5),
        r"run.failed \(event .*\) has another time than event .*, which the same call wrote",
    ),
    "a time after what follows": (
        ended_run, changed("step.started", "b", 1, at=9_999_999_999_999_999),
        r"step.started of step 'b' at attempt 1 .* has a time .* s after the id of event .*, which follows it",
    ),
    "a number of an attempt that is left out": (
        ended_run, changed("step.queued", "a", 2, attempt=3),
        r"step.queued of step 'a' at attempt 3 \(event .*\), but the next attempt of the step is 2",
    ),
    "an end of another attempt": (
        half_a_run, changed("step.failed", "x", 1, attempt=4),
        r"step.failed of step 'x' at attempt 4 .*, but the step was running at attempt 1",
    ),
    "a run that succeeded though a step failed": (
        ended_run, changed("run.failed", event="run.succeeded"),
        r"run.succeeded \(event .*\), but with 1 failed and 0 cancelled steps the run is failed",
    ),
    **{
        f"an end of an attempt that {words}": (
            make, changed(event, step, attempt, detail=detail),
            rf"{event} of step '{step}' at attempt {attempt} \(event .*\), but the outcome of its attempt is {outcome}",
        )
        for words, make, event, step, attempt, detail, outcome in (
            ("does not say how", half_a_run, "step.succeeded", "a", 2, "", "None"),
            ("says something else", half_a_run, "step.failed", "x", 1, '{"outcome":"succeeded"}',
             "succeeded"),
            ("says what there is not", half_a_run, "step.failed", "x", 1, '{"outcome":"vanished"}',
             "vanished"),
            ("tells of no loss", ended_run, "attempt.lost", "b", 1, '{"outcome":"handed_over"}',
             "handed_over"),
            ("tells of no return", put_back_run, "attempt.put_back", "a", 1, '{"outcome":"lost"}',
             "lost"),
        )
    },
    **{
        f"an event with {field}={text!r}": (
            half_a_run, changed("step.failed", "x", 1, **{field: text}),
            r"event \S+ cannot be read",
        )
        for field, text in (("detail", "{garbage"), ("detail", "{" * 9), ("attempt", "first"),
        ("at", ""))
    },
    "a run that was cancelled by nobody": (
        ended_run, changed("run.failed", event="run.cancelled"),
        r"run.cancelled \(event .*\), but with 1 failed and 0 cancelled steps the run is failed",
    ),
    "a run that ended too early": (
        half_a_run, added("run.failed"), r"run.failed \(event .*\), but step 'c' is waiting",
    ),
    "a run that did not end": (ended_run, without("run.failed"),
    "all steps have ended, but the run is running"),
    "a run that ended twice": (ended_run, added("run.failed"),
    r"run.failed \(event .*\), but the run was failed"),
    "a step that changed after the end": (
        ended_run, added("step.queued", "y", 1),
        r"step.queued of step 'y' .*, but the run was failed",
    ),
    "a step that started before the run": (
        ended_run, without("run.started"), r"step.started of step 'a' .*, but the run was queued",
    ),
    "a run that was never created": (
        half_a_run, without("run.created"),
        r"the record begins with step.queued \(event .*\), not with run.created",
    ),
    "a step that the run does not have": (
        half_a_run, added("step.queued", "z", 1),
        r"step.queued of step 'z' .*, but the run has no such step",
    ),
    "an event that there is not": (
        half_a_run, added("step.exploded", "b", 2),
        r"step.exploded \(event .*\) is not an event that a run has",
    ),
    "an event of runs that there is not": (
        half_a_run, added("run.exploded"),
        r"run.exploded \(event .*\) is not an event that a run has",
    ),
    "a message of what is not queued": (
        half_a_run, added("message.lost", "b", 2, {}),
        r"message.lost of step 'b' .*, but the step is running at attempt 2",
    ),
    "a stop of what never was": (
        half_a_run, added("attempt.stopped", "c", 1, {}),
        r"attempt.stopped of step 'c' .*, but the step is waiting .*",
    ),
    "a resume of what goes on": (
        half_a_run, added("run.resumed", detail={"again": [], "reset": 0}),
        r"run.resumed \(event .*\), but the run was running",
    ),
    "a resume that runs again what had not succeeded": (
        resumed_run, changed("run.resumed", detail='{"again":["a","b","c","tidy","x"],"reset":6}'),
        r"step 'x' runs again \(event .*\), but it had not succeeded: it was failed",
    ),
    "a resume that keeps what has not succeeded": (
        resumed_run, changed("run.resumed", detail='{"again":["a","b","c","tidy"],"reset":5}'),
        r"run.resumed \(event .*\) tells of 5 steps that wait anew, but 6 must",
    ),
    "a kept step whose upstream waits anew": (
        resumed_run, changed("run.resumed", detail='{"again":["a","b","c"],"reset":5}'),
        r"step 'tidy' is kept \(event .*\), but its upstream 'c' waits anew, so it must be judged anew",
    ),
    "a kept step that runs again": (
        resumed_run, changed("run.resumed", detail='{"again":["b","c","tidy"],"reset":5}'),
        r"step.queued of step 'a' at attempt 3 \(event .*\), but the step was succeeded at attempt 2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TOLD_BY_EVENTS)
def test_the_events_alone_show(ledger: Ledger, case: str) -> None:
    make, tamper, expected = TOLD_BY_EVENTS[case]
    run_id = make(ledger)

    tamper(ledger, run_id)

    told = replay_of(ledger, run_id).violations
    assert any(re.fullmatch(expected, sentence) for sentence in told), told
    assert set(told) <= set(sentences(ledger, run_id))


@pytest.mark.parametrize("case", TOLD_BY_EVENTS)
def test_a_record_that_is_wrong_can_be_looked_at(ledger: Ledger, case: str) -> None:
    make, tamper, _ = TOLD_BY_EVENTS[case]
    run_id = make(ledger)
    steps = set(read_record(ledger, run_id).steps)

    tamper(ledger, run_id)

    assert set(read_record(ledger, run_id).steps) == steps


def replay_of(ledger: Ledger, run_id: str) -> Replay:
    upstream = {step: tuple(spec.upstream) for step, spec in ledger.specs(run_id).items()}
    rules = {step: entry.trigger for step, entry in ledger.entries(run_id).items()}
    return replay_events(list(ledger.events(run_id)), upstream, rules)


@pytest.mark.parametrize(
    ("make", "tamper", "expected"),
    [
        (ended_run, on_key("state", "HSET", "a", "failed 2 2 0 -"),
         "by its events step 'a' is succeeded at attempt 2, but the ledger has it failed at attempt 2"),
        (half_a_run, on_key("state", "HSET", "c", "queued 1 0 0 -"),
         "by its events step 'c' is waiting at attempt 0, but the ledger has it queued at attempt 1"),
        (half_a_run, on_key("state", "HDEL", "b"),
         "by its events step 'b' is running at attempt 2, but the ledger has it waiting at attempt 0"),
        (half_a_run, on_key("state", "HSET", "z", "running 1 9 0 w c"),
         "the run has no step 'z', but the ledger has it running at attempt 1"),
        (ended_run, on_key("run", "HSET", "state", "succeeded"),
         "by its events the run is failed, but the ledger has it succeeded"),
        (ended_run, on_key("run", "HINCRBY", "n:succeeded", 1),
         "4 steps are succeeded, but the ledger counts 5"),
        (half_a_run, on_key("run", "HINCRBY", "open", -1),
         "3 steps have not ended, but the ledger counts 2"),
        (half_a_run, on_key("run", "HSET", "token", 0),
         "5 attempts have begun, but the ledger has given no token"),
        (half_a_run, on_key("state", "HSET", "b", f"running 2 {2**52 + 1} 0 w c"),
         r"step 'b' has token 4503599627370497, but the last one that the ledger has given is \d+"),
        (half_a_run, on_key("run", "HSET", "token", 1),
         r"step 'b' has token \d+, but the last one that the ledger has given is 1"),
        (ended_run, with_token_of("b", "a"), r"steps 'a' and 'b' have the same token \d+"),
        (half_a_run, on_key("state", "HSET", "b", "running 2 0 0 w c"),
         "step 'b' is running and attempt 2 of it has begun, but without a token"),
        (resumed_run, on_key("state", "HSET", "a", "queued 3 1 0 -"),
         "step 'a' has token 1, but attempt 3 of it has not begun"),
        (resumed_run, on_key("run", "HINCRBY", "resumes", 1),
         "the run was resumed 1 times, but the ledger counts 2"),
        (half_a_run, on_key("due", "ZREM", "b"),
         "step 'b' is running, but the ledger does not know when to look at it again"),
        (resumed_run, on_key("due", "ZREM", "a"),
         "step 'a' is queued, but the ledger does not know when to look at it again"),
        (ended_run, on_key("due", "ZADD", 1, "x"),
         "step 'x' is failed, but the ledger means to look at it again"),
        (resumed_run, on_key("queued:cpu:3", "ZREM", "a"),
         "step 'a' is queued, but stands in 0 lists of those that are queued"),
        (half_a_run, on_key("queued:cpu:3", "ZADD", 1, "c"),
         "step 'c' is waiting, but stands in 1 lists of those that are queued"),
        (half_a_run, on_key("output", "HSET", "x", "1"),
         "step 'x' is failed, but the ledger has an output of it"),
        (half_a_run, without("step.started", "b", 2),
         "by its events step 'b' is queued at attempt 2, but the ledger has it running at attempt 2"),
    ],
)  # fmt: skip
def test_what_differs_between_the_events_and_the_ledger_is_found(
    ledger: Ledger, make, tamper, expected: str
) -> None:
    run_id = make(ledger)

    tamper(ledger, run_id)

    told = sentences(ledger, run_id)
    assert any(re.fullmatch(expected, sentence) for sentence in told), told


LATER = 9_999_999_999_999_999


@pytest.mark.parametrize(
    ("make", "tamper", "expected"),
    [
        (ended_run, changed("run.created", at=5),
         "by its events created_at of the run is 1970-01-01T00:00:00.000005Z, but the ledger has .*"),
        (ended_run, on_key("run", "HSET", "ended_at", 5),
         "by its events ended_at of the run is .*, but the ledger has 1970-01-01T00:00:00.000005Z"),
        (half_a_run, on_key("run", "HDEL", "started_at"),
         "by its events started_at of the run is .*, but the ledger has None"),
        (ended_run, changed("step.succeeded", "b", 2, at=5),
         "by its events step 'b' is succeeded since 1970-01-01T00:00:00.000005Z, but the ledger has .*"),
        (half_a_run, changed("step.started", "b", 2, at=LATER),
         r"step.started \(event .*\) is of 2286-11-20T17:46:39.999999Z, which is still to come"),
        (half_a_run, changed("step.started", "b", 2, at=LATER),
         r"step 'b' has token \d+, but one of attempt 2 is \d+ at least, by its time"),
    ],
)  # fmt: skip
def test_a_time_that_is_not_that_of_the_ledger_is_found(
    ledger: Ledger, make, tamper, expected: str
) -> None:
    run_id = make(ledger)

    tamper(ledger, run_id)

    told = sentences(ledger, run_id)
    assert any(re.fullmatch(expected, sentence) for sentence in told), told


def test_events_that_were_deleted_are_counted(ledger: Ledger) -> None:
    run_id = ended_run(ledger)
    key = ledger.key(run_id, "events")
    if "entries-added" not in ledger.client.xinfo_stream(key):
        pytest.skip("this server does not count what was added to a stream (Redis 7)")
    ledger.report_shared_queue(run_id, "cpu", "somebody")
    assert sentences(ledger, run_id) == ()
    ledger.client.xdel(key, ledger.last_event_id(run_id))

    assert sentences(ledger, run_id) == ("1 events were deleted from the record",)


class Slow(Ledger):
    """A ledger to which time goes by between two calls."""

    def _call(self, run_id: str, *args: Any) -> Any:
        before = self.now_us()
        while self.now_us() < before + 2 * GRAIN_US:
            pass
        return super()._call(run_id, *args)


HOUR_US = 3_600_000_000
FORGINGS: dict[str, Callable[[dict[str, str]], dict[str, str]]] = {
    "an hour later": lambda it: {**it, "at": str(int(it["at"]) + HOUR_US)},
    "an hour earlier": lambda it: {**it, "at": str(int(it["at"]) - HOUR_US)},
    "another field": lambda it: {**it, "host": "h"},
    "another event": lambda it: {**it, "event": it["event"] + "s"},
    "another attempt": lambda it: {**it, "attempt": str(int(it["attempt"]) + 1)},
    "another step": lambda it: {**it, "step": "c" if it["step"] in ("", "a") else "a"},
    "no step": lambda it: {**it, "step": "" if it["step"] else "a"},
}


@pytest.mark.parametrize("make", [half_a_run, ended_run, put_back_run, resumed_run])
def test_whatever_is_forged_in_one_event_is_found(
    ledger: Ledger, make: Callable[[Ledger], str]
) -> None:
    ledger = Slow(ledger.client, ledger.prefix)
    run_id = make(ledger)
    events = ledger.client.xrange(ledger.key(run_id, "events"))

    def missed(kind: str, place: int, forged: list[RawEvent]) -> list[tuple[str, RawEvent]]:
        rewrite(ledger, run_id, lambda _: forged)
        return [] if sentences(ledger, run_id) else [(kind, events[place])]

    told = []
    for place, (event_id, fields) in enumerate(events):
        before, after = events[:place], events[place + 1 :]
        for kind, forge in FORGINGS.items():
            told += missed(kind, place, [*before, (event_id, forge(fields)), *after])
        for later, (other_id, other) in enumerate(after, place + 1):
            if other["at"] != fields["at"]:
                # else one call wrote both, and their order says nothing
                swapped = [*events[:later], (other_id, fields), *events[later + 1 :]]
                swapped[place] = event_id, other
                told += missed(f"swapped with {other}", place, swapped)
            milliseconds, number = other_id.split("-")
            twice = [*events[: later + 1], (f"{milliseconds}-{int(number) + 1}", fields)]
            if later + 1 == len(events) or events[later + 1][0].split("-")[0] != milliseconds:
                told += missed(f"again after {other}", place, [*twice, *events[later + 1 :]])
        # The end of an attempt that never began may be that of a queued one, which its worker had
        # to end.
        if fields["event"] != "step.started" or not any(
            fields["step"] == it["step"] for _, it in before
        ):
            told += missed("left out", place, [*before, *after])

    assert told == []


@given(data=st.data())
@settings(max_examples=200)
def test_a_clock_that_is_put_back_and_forward_is_no_forgery(data: st.DataObject) -> None:
    """Ids go by the clock at the beginning of a call (Redis 7.2), or when an event is written, and
    never back."""
    at_beginning = data.draw(st.booleans())
    clock, last, events = 10**15, (0, 0), list[Event]()
    for _ in range(data.draw(st.integers(1, 30))):
        clock += data.draw(
            st.one_of(st.integers(0, 3000), st.integers(0, 10**10), st.integers(-(10**10), 0))
        )
        begun, at = clock, clock + data.draw(st.integers(0, 1000))
        for number in range(data.draw(st.integers(1, 3))):
            shown = begun if at_beginning else at + data.draw(st.integers(0, 1000)) * number
            milliseconds = max(last[0], shown // 1000)
            last = milliseconds, last[1] + 1 if milliseconds == last[0] else 0
            event_id = f"{last[0]}-{last[1]}"
            events.append(Event(event_id, EventKind.COMMIT_REFUSED, at, "s", len(events), {}))
        clock = max(clock, at)

    replay = Replay({}, {}, set(), [frozenset()])
    for event in (Event("1-0", EventKind.RUN_CREATED, 0, "", 0, {}), *events):
        replay.take(event)
    assert replay.violations == []


def test_a_record_without_events_is_wrong(ledger: Ledger) -> None:
    run_id = half_a_run(ledger)
    ledger.client.delete(ledger.key(run_id, "events"))

    assert "the run has no event that creates it" in sentences(ledger, run_id)


def test_events_out_of_order_are_found() -> None:
    created = Event("5-0", EventKind.RUN_CREATED, 5, "", 0, {})
    queued = Event("4-9", EventKind.STEP_QUEUED, 5, "a", 1, {})

    told = replay_events([created, queued], {"a": ()}, {"a": "all_success"}).violations

    assert told == ["event 4-9 (step.queued) is out of order: event 5-0 is not before it"]


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_is_judged_as_the_oracle_judges_it(rule: str) -> None:
    for count in range(4):
        for states in product(StepState, repeat=count):
            upstream = {str(place): state for place, state in enumerate(states)}
            replay = Replay(
                {"v": tuple(upstream)}, {"v": rule}, {"v"}, [frozenset()], states=upstream
            )
            assert replay.verdict("v") == judge(rule, states), states


def test_a_resume_with_other_steps_is_judged_by_the_steps_that_there_were(ledger: Ledger) -> None:
    run_id = ended_run(ledger)
    # b is gone, c waits for a only, x and y are as before, new waits for c, y tidies up too.
    other = graph(
        {"new": "c", "a": "", "c": "a", "x": "", "y": "x", "tidy": "y"}, {"y": "all_done", **TIDY}
    )
    resume_as(ledger, run_id, other, kept="a c tidy", gone="b")
    (event,) = [event for event in ledger.events(run_id) if event.kind == "run.resumed"]
    assert (event.fields["new"], event.fields["gone"]) == (["new"], ["b"])
    assert event.fields["rewired"] == ["c", "y", "tidy"]
    assert sentences(ledger, run_id) == ()

    end(ledger, run_id, "x", 2, Outcome.FAILED)
    end(ledger, run_id, "y", 1)
    end(ledger, run_id, "new", 1, Outcome.FAILED)
    assert sentences(ledger, run_id) == ()

    # b comes back, and counts on from the attempts that it had.
    resume_as(ledger, run_id, graph({**UPSTREAM, "new": "b"}, TIDY), kept="a y c tidy", gone="")
    end(ledger, run_id, "b", 3)
    assert sentences(ledger, run_id) == ()
    added("step.queued", "new", 2)(ledger, run_id)
    assert any(
        sentence.startswith("step.queued of step 'new'") for sentence in sentences(ledger, run_id)
    )


@pytest.mark.parametrize("rule", RULES)
def test_a_resume_that_keeps_what_was_decided_by_an_open_step_is_found(
    ledger: Ledger, rule: str
) -> None:
    run_id = start_graph(
        ledger,
        {"gate": "", "between": "gate", "page": "between"},
        {"between": "always", "page": rule},
    )
    end(ledger, run_id, "gate", outcome=Outcome.FAILED)
    end(
        ledger,
        run_id,
        "between",
        outcome=Outcome.FAILED if rule == "one_failed" else Outcome.SUCCEEDED,
    )
    end(ledger, run_id, "page")

    resets = [("gate", 0), ("between", 0)]
    again = [] if rule == "one_failed" else ["between"]
    ledger.resume(run_id, resets, again=again)

    (sentence,) = sentences(ledger, run_id)
    assert sentence.startswith("step 'page' is kept (event ")
    assert sentence.endswith("but its upstream 'between' waits anew, so it must be judged anew")


def resume_as(ledger: Ledger, run_id: str, other: Graph, *, kept: str, gone: str) -> None:
    plan = other.plan()
    resets = [
        (step, sum(up in kept.split() for up in plan.upstream[step])) for step in other.upstream
    ]
    ledger.resume(
        run_id,
        [(step, done) for step, done in resets if step not in kept.split()],
        gone=gone.split(),
        staged=list(staged_steps(plan, SETTINGS)),
    )


def test_a_run_that_goes_on_is_seen_at_one_moment(ledger: Ledger) -> None:
    names = [f"s{i}" for i in range(300)]
    run_id = start_graph(
        ledger, {name: " ".join(names[max(0, i - 3) : i]) for i, name in enumerate(names)}
    )

    def go_on() -> None:
        for name in names:
            end(ledger, run_id, name)

    work = threading.Thread(target=go_on)
    work.start()
    seen = set()
    while work.is_alive():
        verification = verify_run(ledger, run_id)
        assert verification.violations == ()
        seen.add(verification.events)
    work.join()

    assert len(seen) > 1
    assert verify_run(ledger, run_id).violations == ()


SUCCEEDED = '{"outcome":"succeeded"}'


def run_in_layers(ledger: Ledger, count: int) -> str:
    """Return a run of so many steps, in layers of 100, all of which have succeeded."""
    names = [f"s{i}" for i in range(count)]
    upstream = {name: names[max(0, i - i % 100 - 3) : i - i % 100] for i, name in enumerate(names)}
    run_id, _ = start(ledger, graph(upstream).plan())
    script, key = ledger.client.register_script(SCRIPT), [ledger.key(run_id, "run")]
    with ledger.client.pipeline(transaction=False) as pipe:
        for at in range(0, count, 100):
            layer = names[at : at + 100]
            for name in layer:
                script(key, ["claim", name, 1, "c", "w", 6_000_000], pipe)
            for name, (_, token, *_) in zip(layer, pipe.execute(), strict=True):
                script(
                    key,
                    ["commit", name, 1, token, "w", "succeeded", SUCCEEDED, "", "", 0, ""],
                    pipe,
                )
            pipe.execute()
    assert run_state(ledger, run_id) == "succeeded"
    return run_id


def test_twice_as_many_steps_are_verified_in_twice_the_time(ledger: Ledger, cpu_growth) -> None:
    def verify(run_id: str, count: int) -> None:
        verification = verify_run(ledger, run_id)
        assert (verification.violations, verification.attempts) == ((), count)

    once, twice = run_in_layers(ledger, 5_000), run_in_layers(ledger, 10_000)

    assert cpu_growth(lambda: verify(once, 5_000), lambda: verify(twice, 10_000)) <= 2.5
