"""Why a step is where it is: what it waits for, which workers could run it, when something is
due, how it ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.attempt_id import AttemptId
from orchestrator.ledger.entries import ALL_SUCCESS
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.presence import WorkerCard
from orchestrator.ledger.states import Outcome, StepState
from orchestrator.ledger.values import RunUnknown
from orchestrator.messages.queues import messages_ahead, queue_length
from orchestrator.record.run import AttemptRecord, RunRecord, StepRecord
from orchestrator.runs.awaited import awaited_steps, roots_of
from orchestrator.runs.between_pages import between_pages
from orchestrator.runs.surroundings import (
    Surroundings,
    hindrance_text,
)
from orchestrator.settings.model import Settings
from orchestrator.times import clock_text, rfc3339, span_text
from orchestrator.wording import counted, listed, punctuated

NAMED_STEPS = 5
NOBODY = "no coordinator is there to {do}: orchestrator serve starts one"


@dataclass(frozen=True)
class Explanation:
    """Why a step is where it is: sentences for people, and the same as facts for programs."""

    state: StepState
    sentences: tuple[str, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)


def brief(record: RunRecord, name: str, around: Surroundings) -> str:
    """Say in a few words why a step that has not ended is where it is."""
    step = record.steps[name]
    match step.state:
        case StepState.WAITING:
            awaited = awaited_steps(record, step)
            return f"waits for {_listed(awaited)}" if awaited else "its upstreams have ended"
        case StepState.QUEUED:
            serving = around.serving(step.queue)
            if serving:
                return _slots(serving, around)
            if hindered := around.hindered(step.queue):
                return f"waiting: {hindrance_text(hindered[0])}"
            return f"waiting: no worker serves pool {step.pool}"
        case StepState.RETRYING:
            last = step.attempts[-1]
            why = f"put back ({last.reason}), " if last.outcome is Outcome.PUT_BACK else ""
            text = f"{why}retry at {rfc3339(step.due_at_us)}"
            return text if around.coordinators else f"{text}; {NOBODY.format(do='send it')}"
        case StepState.RUNNING:
            last = step.attempts[-1]
            since_us = last.started_at_us or around.now_us
            return (
                f"on {last.worker} since {clock_text(since_us)},"
                f" {span_text(around.now_us - since_us)}"
            )
    return ""


def explain(
    ledger: Ledger, settings: Settings, record: RunRecord, name: str, around: Surroundings
) -> Explanation:
    """Say why a step is where it is, in full."""
    step = record.steps[name]
    match step.state:
        case StepState.WAITING:
            return _waiting(ledger, record, name, around)
        case StepState.QUEUED:
            return _queued(ledger, settings, record, name, around)
        case StepState.RETRYING:
            return _retrying(name, step, around)
        case StepState.RUNNING:
            return _running(ledger, record, name, around)
    return _ended(ledger, record, name)


def _waiting(ledger: Ledger, record: RunRecord, name: str, around: Surroundings) -> Explanation:
    step = record.steps[name]
    awaited = awaited_steps(record, step)
    between = between_pages(ledger, record.run_id, name, awaited)
    sentences = [f"{name} waits for {_described(record, awaited, around)}."] if awaited else []
    sentences += [between] if between else []
    direct = set(awaited)
    roots = [root for root in roots_of(record, awaited) if root not in direct]
    if roots:
        others = _described(record, roots, around)
        turn = "That in turn waits" if len(awaited) == 1 else "Those in turn wait"
        sentences.append(f"{turn} for {others}.")
    entry = ledger.entry(record.run_id, name)
    rule = entry.trigger if entry else ALL_SUCCESS
    is_usual = rule == ALL_SUCCESS
    if not is_usual:
        sentences.append(f"Its trigger rule is {rule}.")
    return Explanation(
        step.state,
        tuple(sentences),
        {
            "waits_for": {upstream: record.steps[upstream].state.value for upstream in awaited},
            "behind": {root: record.steps[root].state.value for root in roots},
            **({} if is_usual else {"trigger": rule}),
        },
    )


def _queued(
    ledger: Ledger, settings: Settings, record: RunRecord, name: str, around: Surroundings
) -> Explanation:
    step, client = record.steps[name], ledger.client
    last = step.attempts[-1]
    entry = ledger.entry(record.run_id, name)
    if entry is None:
        raise RunUnknown(record.run_id)  # somebody has just deleted it
    waited_us = around.now_us - last.queued_at_us
    number = f" as attempt {last.attempt}" if last.attempt > 1 else ""
    sentences = [
        f"{name} is queued{number} for pool {step.pool} since {clock_text(last.queued_at_us)}"
        f" ({span_text(waited_us)})."
    ]
    if between := between_pages(ledger, record.run_id, name, None):
        sentences.append(between)
    serving, hindered = around.serving(step.queue), around.hindered(step.queue)
    sentences += _served_sentences(step, serving, hindered, around)
    lists = settings.list_of(step.queue)
    attempt = AttemptId(record.run_id, name, last.attempt)
    ahead = messages_ahead(client, lists, entry.level, attempt)
    sentences.append(_ahead_sentence(ahead, settings, around))
    until_us = ledger.due_at(record.run_id, name) if entry.queue_timeout_s else None
    if until_us is not None:
        left = span_text(max(0, until_us - around.now_us))
        sentences.append(
            f"It fails if it waits longer than its queue_timeout of {entry.queue_timeout_s:g} s, in"
            f" {left}."
        )
    return Explanation(
        step.state,
        tuple(sentences),
        {
            "pool": step.pool,
            "queue": step.queue,
            "queued_at": rfc3339(last.queued_at_us),
            "workers": [card.worker for card in serving],
            "slots": sum(card.slots for card in serving),
            "busy": _busy(serving, around),
            **({"hindered": {card.worker: card.fault for card in hindered}} if hindered else {}),
            "messages_ahead": ahead,
            "messages_in_queue": queue_length(client, lists),
            **({"waits_until": rfc3339(until_us)} if until_us is not None else {}),
        },
    )


def _served_sentences(
    step: StepRecord,
    serving: list[WorkerCard],
    hindered: list[WorkerCard],
    around: Surroundings,
) -> Iterator[str]:
    if serving:
        workers = f"{len(serving)} worker{'s serve' if len(serving) > 1 else ' serves'}"
        yield (f"{workers} that pool: {_slots(serving, around)}.")
    elif hindered:
        yield ("No healthy worker serves that pool.")
    else:
        yield (
            f"No worker serves that pool (queue {step.queue}): orchestrator worker --pool"
            f" {step.pool} starts one."
        )
    yield from (punctuated(f"W{hindrance_text(card)[1:]}") for card in hindered)


def _ahead_sentence(ahead: int | None, settings: Settings, around: Surroundings) -> str:
    if ahead is None:
        text = f"once it has been missing for {settings.message_lost_after_s:g} s it is sent again"
        nobody = "" if around.coordinators else f", but {NOBODY.format(do='do so')}"
        return (
            "Its message is not in the queue: a worker is just taking it, or it is lost;"
            f" {text}{nobody}."
        )
    if ahead:
        return f"{ahead:,} message{'s are' if ahead > 1 else ' is'} ahead of it in the queue."
    return "Its message is the next one in the queue."


def _retrying(name: str, step: StepRecord, around: Surroundings) -> Explanation:
    last, due_us = step.attempts[-1], step.due_at_us or around.now_us
    left_us = due_us - around.now_us
    when = f"in {span_text(left_us)}" if left_us > 0 else f"{span_text(-left_us)} ago"
    sentences = [
        f"Attempt {last.attempt} of {name} {_outcome(last)}.",
        f"Attempt {last.attempt + 1} is due at {clock_text(due_us)}, {when}.",
    ]
    if not around.coordinators:
        sentences.append(NOBODY.format(do="send it").capitalize() + ".")
    return Explanation(
        step.state,
        tuple(sentences),
        {
            "due_at": rfc3339(due_us),
            "due_in_s": round(left_us / 1e6, 3),
            "coordinators": len(around.coordinators),
            "error": last.error.to_json() if last.error else None,
            **({"put_back": last.reason} if last.outcome is Outcome.PUT_BACK else {}),
        },
    )


def _running(ledger: Ledger, record: RunRecord, name: str, around: Surroundings) -> Explanation:
    step = record.steps[name]
    last = step.attempts[-1]
    since_us = last.started_at_us or around.now_us
    ran_us = around.now_us - since_us
    number = f", as attempt {last.attempt}" if last.attempt > 1 else ""
    sentences = [
        f"{name} runs on {last.worker} since {clock_text(since_us)} ({span_text(ran_us)}){number}."
    ]
    facts: dict[str, Any] = {"worker": last.worker, "started_at": rfc3339(since_us)}
    entry = ledger.entry(record.run_id, name)
    if entry and (timeout_s := entry.timeout_s):
        left_us = max(0, round(timeout_s * 1e6) - ran_us)
        sentences.append(f"Its timeout of {timeout_s:g} s leaves it {span_text(left_us)}.")
        facts["timeout_left_s"] = round(left_us / 1e6, 3)
    until_us = ledger.due_at(record.run_id, name)
    if until_us is not None:
        left_us = until_us - around.now_us
        facts["lease_left_s"] = round(left_us / 1e6, 3)
        if left_us > 0:
            sentences.append(
                f"Its lease holds for {span_text(left_us)}, and is renewed while its worker lives."
            )
        else:
            nobody = "" if around.coordinators else f", but {NOBODY.format(do='do so')}"
            sentences.append(
                f"Its lease ran out {span_text(-left_us)} ago: it is given to another"
                f" worker{nobody}."
            )
    card = next((card for card in around.workers if card.worker == last.worker), None)
    if card is None:
        sentences.append(f"Worker {last.worker} has given no sign of life lately.")
    elif card.fault:
        sentences.append(
            "Its worker takes no further steps until its own check passes:"
            f" {punctuated(card.fault)}"
        )
    elif not card.queues:
        sentences.append("Its worker drains: it ends with the steps that it runs.")
    return Explanation(step.state, tuple(sentences), facts)


def _ended(ledger: Ledger, record: RunRecord, name: str) -> Explanation:
    step = record.steps[name]
    last = step.attempts[-1] if step.attempts else None
    sentences: list[str] = []
    facts: dict[str, Any] = {}
    match step.state:
        case StepState.SUCCEEDED if step.reused and step.is_reused:
            run_id, attempt = step.reused
            sentences.append(
                f"{name} was taken over: attempt {attempt} of run {run_id} has computed its output."
            )
            facts["reused"] = {"run": run_id, "attempt": attempt}
        case StepState.SUCCEEDED if last:
            took = (
                span_text((last.ended_at_us or 0) - (last.started_at_us or 0))
                if last.started_at_us
                else "no time"
            )
            sentences.append(f"{name} succeeded on {last.worker} after {took}.")
        case StepState.FAILED if last:
            sentences.append(f"{name} failed: attempt {last.attempt} {_outcome(last)}.")
            tries = record.tries(name)
            if last.outcome is not Outcome.LOST and (
                tries.is_resumed or tries.made < tries.allowed
            ):
                since = " since the run was resumed" if tries.is_resumed else ""
                sentences.append(
                    f"That was try {tries.made} of {tries.allowed}{since}"
                    f" (retries={tries.allowed - 1})."
                )
            facts["error"] = last.error.to_json() if last.error else None
        case StepState.CANCELLED:
            more, facts = _cancelled(ledger, record, name)
            sentences += more
        case StepState.UPSTREAM_FAILED:
            sentences.append(punctuated(f"{name} did not run because {_why_not(record, step)}"))
            facts["because"] = step.because
        case StepState.SKIPPED:
            sentences.append(f"{name} was skipped: its trigger rule cannot come true.")
            facts["because"] = step.because
    earlier = [
        attempt
        for attempt in step.attempts
        if attempt is not last or step.state is StepState.CANCELLED
    ]
    sentences += [
        f"Attempt {attempt.attempt} {_outcome(attempt)}."
        for attempt in earlier[-NAMED_STEPS:]
        if attempt.outcome and attempt.outcome is not Outcome.CANCELLED
    ]
    return Explanation(
        step.state, tuple(sentences), {name: value for name, value in facts.items() if value}
    )


def _cancelled(ledger: Ledger, record: RunRecord, name: str) -> tuple[list[str], dict[str, Any]]:
    step, sentences, facts = record.steps[name], list[str](), dict[str, Any]()
    last = step.attempts[-1] if step.attempts else None
    reason = step.cancel_reason or record.cancel_reason
    sentences.append(punctuated(f"{name} was cancelled{f': {reason}' if reason else ''}"))
    facts["reason"] = reason
    if last and last.stopped:
        sentences.append(punctuated(f"Its attempt {_stopped(last.stopped)}"))
        facts["stopped"] = last.stopped["how"]
    for attempt in ledger.stopping(record.run_id):
        if attempt.step == name:
            sentences.append(
                f"Its attempt {attempt.attempt} is still being stopped by {attempt.worker}."
            )
            facts["stopping"] = attempt.worker
    return sentences, facts


def _described(record: RunRecord, names: Sequence[str], around: Surroundings) -> str:
    """Return the first of the steps with why each is where it is, and how many more there are."""
    shown = [_brief_text(record, name, around) for name in names[:NAMED_STEPS]]
    return _listed([*shown, *names[NAMED_STEPS:]])


def _brief_text(record: RunRecord, name: str, around: Surroundings) -> str:
    state = record.steps[name].state
    if state is StepState.WAITING:
        return f"{name} (waiting)"
    between = " " if state is StepState.RUNNING else ": "
    return f"{name} ({state.value}{between}{brief(record, name, around).removeprefix('waiting: ')})"


def _slots(serving: list[WorkerCard], around: Surroundings) -> str:
    slots, busy = sum(card.slots for card in serving), _busy(serving, around)
    return f"{counted(slots, 'slot')}, {'all' if busy >= slots else busy or 'none'} busy"


def _busy(serving: list[WorkerCard], around: Surroundings) -> int:
    return sum(min(card.slots, around.busy.get(card.worker, 0)) for card in serving)


def _why_not(record: RunRecord, step: StepRecord) -> str:
    cause = record.steps.get(step.because or "")
    if cause is None:
        return f"{step.because or 'a step above it'} failed"
    if cause.state is StepState.CANCELLED:
        return (
            f"{step.because} was"
            f" cancelled{f': {cause.cancel_reason}' if cause.cancel_reason else ''}"
        )
    text = _outcome(cause.attempts[-1]) if cause.attempts else "failed"
    return f"{step.because} failed: it {text}"


def _outcome(attempt: AttemptRecord) -> str:
    what = attempt.error.line if attempt.error else ""
    word = {
        Outcome.SUCCEEDED: "succeeded",
        Outcome.TIMED_OUT: "timed out",
        Outcome.LOST: "was lost",
        Outcome.HANDED_OVER: "was handed over to another worker",
        Outcome.PUT_BACK: "was put back, which counts against nothing",
        Outcome.CANCELLED: "was cancelled",
    }.get(attempt.outcome or Outcome.FAILED, "failed")
    what = what or (attempt.reason or "" if attempt.outcome is Outcome.PUT_BACK else "")
    return f"{word} ({what})" if what else word


def _stopped(stopped: Mapping[str, Any]) -> str:
    after = f" after {stopped['after_s']:g} s" if "after_s" in stopped else ""
    return f"was stopped{after}: {stopped.get('how', '')}"


def _listed(words: list[str]) -> str:
    if len(words) > NAMED_STEPS:
        return listed(words, NAMED_STEPS)
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]])) or "nothing any more"
