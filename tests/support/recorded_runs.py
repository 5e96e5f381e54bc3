"""Runs in several states of their life, and ways to spoil what is recorded of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from orchestrator.attempt_id import AttemptId
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.states import Outcome
from orchestrator.record.verification import verify_run
from tests.support.runs import begin, run_state, start_graph

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


def sentences(ledger: Ledger, run_id: str) -> tuple[str, ...]:
    return verify_run(ledger, run_id).violations
