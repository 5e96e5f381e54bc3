"""A plan as the ledger keeps it: an entry and a spec for each step. Pure, so that anything that
holds a plan can stage it: a submit, a resume, and a worker whose step has grown more steps."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from orchestrator.definition.options import StepOptions
from orchestrator.definition.pipeline import ParamRef, ShellCall, Step
from orchestrator.definition.wire import references, to_wire
from orchestrator.ledger.entries import CallKind, StepEntry, StepSpec, json_text, priority_level
from orchestrator.ledger.values import StagedStep
from orchestrator.plan.plan import Plan
from orchestrator.settings.model import Settings


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


@cache
def _kept_options(options: StepOptions) -> dict[str, Any]:
    """Return the options that differ from the defaults, without those that stand elsewhere."""
    return options.model_dump(exclude_defaults=True, exclude={"pool", "priority", "trigger"})
