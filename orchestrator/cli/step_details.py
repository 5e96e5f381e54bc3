"""One step of a run for people: its attempts, what the last one was given, and its output."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from orchestrator.artifacts.plain import shown_output
from orchestrator.cli.step_table import reused_text
from orchestrator.cli.summary import SKIP_REASON
from orchestrator.ledger.states import StepState
from orchestrator.record.received_json import arguments_json
from orchestrator.record.run import AttemptRecord, RunRecord
from orchestrator.times import clock_text, duration_text
from orchestrator.wording import LINE_CHARS, and_more, fan_outs, listed, size_text

UPSTREAMS = 10
LISTED = 3  # items of a list that is an argument


def step_text(record: RunRecord, name: str) -> str:
    """Return what the record knows of a step."""
    step = record.steps[name]
    below = [other for other, its in record.steps.items() if name in its.upstream]
    around = _named(", after ", step.upstream) + _named("; below it: ", below)
    lines = [
        f"step {name} of run {record.run_id}: {step.state.value}",
        f"  pool {step.pool}{around}",
    ]
    if reused := reused_text(step):
        lines.append(f"  {reused}")
    if step.because:
        rule = f": {SKIP_REASON}" if step.state is StepState.SKIPPED else ""
        lines.append(f"  because of {step.because}{rule}")
    for attempt in step.attempts:
        lines += _attempt_lines(attempt)
    received = record.received(name, step.last_begun) if step.last_begun else None
    if received:
        lines += _argument_lines(arguments_json(received))
    if record.outputs.get(name):
        lines.append(f"  output: {_shortened(json.dumps(shown_output(record.outputs[name])))}")
    return "\n".join(lines)


def _attempt_lines(attempt: AttemptRecord) -> list[str]:
    outcome = attempt.outcome.value if attempt.outcome else "not ended"
    took = duration_text(attempt.started_at_us, attempt.ended_at_us)
    since = clock_text(attempt.started_at_us or attempt.queued_at_us)
    words = [
        f"attempt {attempt.attempt} {outcome}",
        f"took {took}" if took else "",
        f"{'began' if attempt.started_at_us else 'queued'} at {since}Z",
        f"on {attempt.worker}" if attempt.worker else "",
    ]
    lines = [f"  {', '.join(filter(None, words))}"]
    if why := attempt.reason or (attempt.error.line if attempt.error else ""):
        lines.append(f"    {why}")
    return lines


def _argument_lines(arguments: Mapping[str, Any]) -> list[str]:
    if "run" in arguments:
        lines = ["  command:", *(f"    {line}" for line in arguments["run"].splitlines())]
        values = arguments.get("values", {})
        return lines + [f"    {name} = {_value_text(value)}" for name, value in values.items()]
    given = [_value_text(value) for value in arguments.get("args", ())]
    given += [f"{name}={_value_text(value)}" for name, value in arguments.get("with", {}).items()]
    head = f"  called: {arguments['uses']}"
    return [f"{head}()"] if not given else [f"{head}(", *(f"    {text}," for text in given), "  )"]


def _value_text(value: Any) -> str:
    """Return a value of `arguments_json`."""
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        shown = ", ".join(map(_value_text, value[:LISTED]))
        return f"[{shown}{and_more(len(value) - LISTED)}]"
    alone = value if isinstance(value, dict) and len(value) == 1 else {}
    if isinstance(output := alone.get("output"), dict) and "sha256" in output:
        path = "".join(f"[{json.dumps(part)}]" for part in output.get("path", ()))
        return f"<output of {output['step']}{path}: {_kind_text(output)}>"
    if isinstance(large := alone.get("large"), dict) and "sha256" in large:
        return f"<{_kind_text(large)}>"
    return _shortened(json.dumps(value))


def _kind_text(digest: Mapping[str, Any]) -> str:
    return f"{digest['type']}, {size_text(digest['size_bytes'])}"


def _named(head: str, names: Iterable[str]) -> str:
    """Return the steps behind a head, those of a fan-out once with their count; "" if none."""
    words = [
        items[0] if len(items) == 1 else f"{shared} ({len(items):,})"
        for shared, items in fan_outs(names).items()
    ]
    return head + listed(words, UPSTREAMS) if words else ""


def _shortened(text: str) -> str:
    return text if len(text) <= LINE_CHARS else f"{text[:LINE_CHARS]}…"
