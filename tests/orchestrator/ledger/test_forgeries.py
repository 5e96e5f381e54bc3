"""What is forged in a record is found, whatever event or key it is in."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.attempt_id import AttemptId
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.values import BackOff
from orchestrator.record.replay import GRAIN_US, Replay, replay_events
from orchestrator.record.run import read_record
from tests.support.recorded_runs import (
    TIDY,
    UPSTREAM,
    RawEvent,
    Tampering,
    added,
    changed,
    ended_run,
    half_a_run,
    place_of,
    resumed_run,
    rewrite,
    sentences,
    without,
)
from tests.support.runs import begin, start_graph


def put_back_run(ledger: Ledger) -> str:
    """Return a run in which a was put back, and is not due yet."""
    run_id = start_graph(ledger, UPSTREAM, TIDY)
    token = begin(ledger, run_id, "a")
    ledger.put_back(
        AttemptId(run_id, "a", 1), {"reason": "full", "host": "h"}, BackOff(60.0, 60.0), token=token
    )
    return run_id


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
        r"run.resumed \(event .*\) reports 5 steps that wait anew, but 6 must",
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
