"""The record of a run as the JSON of `run --json` and `show --json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.artifacts.plain import plain_json, shown_output
from orchestrator.record.received_json import arguments_json, differences_json, params_json
from orchestrator.record.run import AttemptRecord, RunRecord, StepRecord
from orchestrator.times import rfc3339


def record_json(record: RunRecord) -> dict[str, Any]:
    """Return the record with RFC 3339 UTC times to the microsecond. Params and outputs are plain
    JSON.

    A step has `arguments` and `params` of its last attempt that began; an earlier one has its own
    where they differ.
    """
    return {
        "run_id": record.run_id,
        "pipeline": record.pipeline,
        "state": record.state.value,
        "params": plain_json(record.params_wire),
        **({"labels": dict(record.labels)} if record.labels else {}),
        "created_at": rfc3339(record.created_at_us),
        "started_at": rfc3339(record.started_at_us),
        "ended_at": rfc3339(record.ended_at_us),
        **({"cancel_reason": record.cancel_reason} if record.cancel_reason else {}),
        **({"rerun_of": record.rerun_of} if record.rerun_of else {}),
        **({"resumes": record.resumes} if record.resumes else {}),
        **({"repairs": record.repairs} if record.repairs else {}),
        "steps": {
            name: {
                "state": step.state.value,
                "upstream": list(step.upstream),
                "pool": step.pool,
                "output": shown_output(record.outputs.get(name, "")),
                **_reused_json(step),
                **({"because": step.because} if step.because else {}),
                **({"cancel_reason": step.cancel_reason} if step.cancel_reason else {}),
                **({"retry_due_at": rfc3339(step.due_at_us)} if step.due_at_us else {}),
                **_given_json(record, name),
                "attempts": [_attempt_json(record, name, attempt) for attempt in step.attempts],
            }
            for name, step in record.steps.items()
        },
    }


def _reused_json(step: StepRecord) -> dict[str, Any]:
    if step.reused is None or not step.is_reused:
        return {}
    return {"reused": {"run": step.reused.run_id, "attempt": step.reused.attempt}}


def _given_json(record: RunRecord, step: str) -> dict[str, Any]:
    """Return what the last attempt that began was given, and of a step that is kept where it would
    be others now."""
    last = record.steps[step].last_begun
    received = record.received(step, last) if last else None
    if received is None:
        return {}
    differences = record.differences(step)
    return {
        "arguments": arguments_json(received),
        "params": params_json(received.params_wire),
        **({"other_arguments": differences_json(differences)} if differences else {}),
    }


def _attempt_json(record: RunRecord, step: str, attempt: AttemptRecord) -> dict[str, Any]:
    return {
        "attempt": attempt.attempt,
        "worker": attempt.worker,
        "queued_at": rfc3339(attempt.queued_at_us),
        "started_at": rfc3339(attempt.started_at_us),
        "ended_at": rfc3339(attempt.ended_at_us),
        "outcome": attempt.outcome.value if attempt.outcome else None,
        "error": attempt.error.to_json() if attempt.error else None,
        **({"reason": attempt.reason} if attempt.reason else {}),
        **({"code": attempt.code} if attempt.code and attempt.code.get("differs") else {}),
        **({"stopped": _stopped_json(attempt.stopped)} if attempt.stopped else {}),
        **_given_before_json(record, step, attempt),
    }


def _given_before_json(record: RunRecord, step: str, attempt: AttemptRecord) -> dict[str, Any]:
    """Return what an attempt before the last one was given, where that was something else."""
    last = record.steps[step].last_begun
    received = record.received(step, attempt)
    if (
        received is None
        or last is None
        or attempt is last
        or received == record.received(step, last)
    ):
        return {}
    return {"arguments": arguments_json(received), "params": params_json(received.params_wire)}


def _stopped_json(stopped: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in stopped.items() if name != "at_us"} | {
        "at": rfc3339(stopped["at_us"])
    }
