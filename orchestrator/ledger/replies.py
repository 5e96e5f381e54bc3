"""What the ledger's script answers, read as values."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from orchestrator.ledger.entries import StepSpec
from orchestrator.ledger.states import RunState, StepState
from orchestrator.ledger.values import (
    AttemptsStopping,
    Chain,
    Claim,
    DueReport,
    ExpiredLease,
    Link,
    Ready,
    Refusal,
    Replaced,
    ResumedMeanwhile,
    RunNotEnded,
    RunSucceeded,
    RunUnknown,
    WaitingList,
    incarnation_in,
)


def ready_in(raw: Sequence[Any]) -> Ready:
    has_more, *texts = raw
    chains = map(json.loads, texts)
    return Ready.of(
        (Chain(name, tuple(Link(*link) for link in links)) for name, links in chains),
        bool(has_more),
    )


def joined(answers: Iterable[Ready]) -> Ready:
    """Return several answers as one."""
    parts = list(answers)
    return Ready.of((chain for part in parts for chain in part), any(it.has_more for it in parts))


def claim_in(reply: Sequence[Any]) -> Claim | Refusal:
    if not reply[0]:
        return Refusal(reply[1])
    _, token, spec, params, import_path, pipeline, uncounted, code_id, secrets, *rest = reply
    is_wide, *outputs = rest
    return Claim(
        token,
        StepSpec.from_json(spec),
        json.loads(params) if params else {},
        import_path,
        pipeline,
        uncounted,
        dict(zip(outputs[::2], outputs[1::2], strict=True)) if outputs else {},
        code_id,
        json.loads(secrets) if secrets else {},
        bool(is_wide),
    )


def replaced_in(reply: Sequence[Any]) -> Replaced | Refusal:
    return Replaced(StepState(reply[1]), ready_in(reply[2])) if reply[0] else Refusal(reply[1])


def due_report_in(reply: Sequence[Any]) -> DueReport:
    state, next_due, now, chains, expired, waiting, alert_at, shifted_by, is_judged = reply
    return DueReport(
        RunState(state) if state else None,
        int(float(next_due)) if next_due else None,
        int(now),
        ready_in(chains),
        tuple(
            ExpiredLease(
                step, attempt, *incarnation_in(holder), int(float(at)), state == StepState.CANCELLED
            )
            for step, attempt, holder, at, state in map(json.loads, expired)
        ),
        tuple(
            WaitingList(queue, int(level), int(float(at)))
            for queue, level, at in json.loads(waiting)
        ),
        int(alert_at) if alert_at else None,
        shifted_by,
        bool(is_judged),
    )


def resume_refusal(run_id: str, error: Exception) -> Exception:
    """Return why a run cannot be resumed; `error` itself if the script did not refuse."""
    kind, _, rest = str(error).partition(" ")
    match kind:
        case "UNKNOWN":
            return RunUnknown(run_id)
        case "RUNNING":
            return RunNotEnded(rest)
        case "SUCCEEDED":
            return RunSucceeded(run_id)
        case "STOPPING":
            return AttemptsStopping(int(rest))
        case "RESUMED":
            return ResumedMeanwhile(run_id)
    return error
