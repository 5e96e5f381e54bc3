"""Putting a compiled pipeline into the ledger and sending off its roots."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from typing import Any

from celery import Celery

from orchestrator.definition.code import code_id, code_of, code_text
from orchestrator.definition.model import ParamRef, Pipeline, ShellCall, Step
from orchestrator.definition.options import StepOptions
from orchestrator.definition.params import params_text, secrets_in
from orchestrator.definition.wire import references, to_wire
from orchestrator.ledger.entries import CallKind, StepEntry, StepSpec, json_text, priority_level
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.values import Link, StagedStep
from orchestrator.messages.dispatch import Dispatcher
from orchestrator.messages.sizes import largest_message_bytes, links_per_message
from orchestrator.plan.plan import Plan
from orchestrator.settings.model import Settings

RUN_ID_SHAPE = "20261123-175235-0123456789"


def new_run_id() -> str:
    """Return an id that sorts by time and that nobody else has: date, time (UTC) and 40 random
    bits."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(5)}"


def submit(
    plan: Plan,
    ledger: Ledger,
    app: Celery,
    settings: Settings,
    run_id: str | None = None,
    target: str = "",
) -> str:
    """Start a run of the plan and give its id. The run is in the ledger, whole, before its first
    message is sent.

    `target` tells a later resume where the pipeline was loaded from: an absolute FILE[:NAME], or a
    module.
    """
    run_id = run_id or new_run_id()
    chains = ledger.start(
        run_id,
        staged_steps(plan, settings),
        [plan.chains[index][0] for index in plan.roots],
        run_fields(plan, settings, run_id, target),
    )
    Dispatcher(app).send(run_id, chains)
    return run_id


def run_fields(
    plan: Plan, settings: Settings, run_id: str, target: str, attempts_before: int = 0
) -> dict[str, str | int]:
    """Return what the ledger keeps of a run as a whole. `attempts_before` are the most that a step
    of it has had."""
    pipeline = plan.pipeline
    fields: dict[str, str | int] = {
        "pipeline": pipeline.name,
        "params": params_text(pipeline.params),
        "import_path": pipeline.import_path or "",
        "max_links": _max_links(plan, settings, run_id, attempts_before),
        "lists": json_text(broker_lists(plan, settings)),
        "code": code_text(code := code_of(pipeline)),
        "code_id": code_id(code),
    }
    if secret_values := secrets_in(pipeline.params):
        fields["secrets"] = json_text(sorted(secret_values))
        # the ledger keeps these apart, until the run ends
        fields["secret_values"] = json.dumps(secret_values)
    if target:
        fields["target"] = target
    if pipeline.deadline_s or any(step.options.queue_timeout for step in pipeline.steps.values()):
        fields["limits"] = 1
    if pipeline.deadline_s:
        # 30 days are 2592000, not 2.592e+06
        whole = pipeline.deadline_s.is_integer() and pipeline.deadline_s < 1e15
        fields["deadline_s"] = f"{pipeline.deadline_s:.0f}" if whole else repr(pipeline.deadline_s)
    if pipeline.alerts:
        fields["alerts"] = json_text(list(pipeline.alerts))
    return fields


def broker_lists(plan: Plan, settings: Settings) -> list[tuple[str, int]]:
    """Return the lists of the broker in which messages of the plan's steps may lie."""
    used = {
        (settings.queue_of(step.options.pool), step.options.priority)
        for step in plan.pipeline.steps.values()
    }
    return sorted({(queue, priority_level(priority)) for queue, priority in used})


def staged_steps(plan: Plan, settings: Settings) -> Iterator[StagedStep]:
    """Return every step as the ledger keeps it, in the order in which the user listed them."""
    following = {steps[i]: steps[i + 1] for steps in plan.chains for i in range(len(steps) - 1)}
    for place, (name, step) in enumerate(plan.pipeline.steps.items()):
        options = step.options
        pool = options.pool or settings.default_pool
        spec = _spec(step, pool)
        read = list(references(values_of(step)))
        entry = StepEntry(
            place,
            settings.queue_of(pool),
            options.priority,
            len(plan.upstream[name]),
            following.get(name, ""),
            options.trigger,
            options.timeout or 0,
            options.queue_timeout or 0,
            options.lost_attempts,
            any(isinstance(reference, ParamRef) for reference in read),
        )
        inputs = list(
            dict.fromkeys(
                reference.step for reference in read if not isinstance(reference, ParamRef)
            )
        )
        yield StagedStep(
            name,
            entry.to_json(),
            json_text(plan.downstream[name]) if plan.downstream[name] else "",
            json_text(inputs) if inputs else "",
            spec.to_json(),
        )


def values_of(step: Step) -> Any:
    """Return what a step's call is given, in which references may stand."""
    call = step.call
    return call.run if isinstance(call, ShellCall) else [call.args, dict(call.kwargs)]


def _spec(step: Step, pool: str) -> StepSpec:
    options, upstream = _kept_options(step.options), step.upstream
    if isinstance(step.call, ShellCall):
        return StepSpec(
            pool, CallKind.SHELL, command=to_wire(step.call.run), options=options, upstream=upstream
        )
    args, kwargs = to_wire(list(step.call.args)), to_wire(dict(step.call.kwargs))
    return StepSpec(pool, CallKind.FUNCTION, step.call.uses, args, kwargs, None, options, upstream)


def plan_links(plan: Plan, settings: Settings) -> dict[str, Link]:
    """Return the link of every step as its first attempt is sent."""
    return {name: _link(plan.pipeline, name, settings) for name in plan.pipeline.steps}


def plan_message_bytes(plan: Plan, settings: Settings) -> int:
    """Return the size of the largest message that a run of the plan can send."""
    if not plan.chains:
        return 0
    links = plan_links(plan, settings)
    chains = [tuple(links[step] for step in steps) for steps in plan.chains]
    max_links = _max_links(plan, settings, RUN_ID_SHAPE)
    return largest_message_bytes(RUN_ID_SHAPE, plan.pipeline.name, chains, max_links)


def _max_links(plan: Plan, settings: Settings, run_id: str, attempts_before: int = 0) -> int:
    # Attempts as they may become, so that a late retry's message is not larger than a first one's
    # may be.
    links = [
        link._replace(attempt=1 + attempts_before + plan.pipeline.steps[name].options.retries)
        for name, link in plan_links(plan, settings).items()
    ]
    return links_per_message(plan.pipeline.name, links, run_id)


def _link(pipeline: Pipeline, name: str, settings: Settings) -> Link:
    options = pipeline.steps[name].options
    pool = options.pool or settings.default_pool
    return Link(name, 1, settings.queue_of(pool), options.priority, options.timeout or 0)


@cache
def _kept_options(options: StepOptions) -> dict[str, Any]:
    """Return the options that differ from the defaults, without those that stand elsewhere."""
    return options.model_dump(exclude_defaults=True, exclude={"pool", "priority", "trigger"})
