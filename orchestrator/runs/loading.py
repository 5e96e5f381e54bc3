"""From FILE[:NAME] and params to a plan: what all share who let a run begin."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from orchestrator.alerts.targets import read_target
from orchestrator.definition.loading import Definition, load, parse_params, read_params
from orchestrator.definition.params import ReadParams, with_open_params
from orchestrator.definition.pipeline import FunctionCall, Pipeline
from orchestrator.definition.secrets import SecretValue
from orchestrator.definition.typed import Unkept
from orchestrator.errors import PipelineInvalid
from orchestrator.plan.compile import compile_pipeline
from orchestrator.plan.plan import Plan
from orchestrator.settings.model import Settings
from orchestrator.wording import punctuated

OWN_MODULES = ("kombu.transport.redis", "orchestrator.messages.app", "psutil", "redis", "rich.live")


class CompiledPlan(NamedTuple):
    """A plan, and the seconds that compiling it took."""

    plan: Plan
    compile_s: float


Ask = Callable[[Sequence[str]], Mapping[str, str]]


def nobody_to_ask(names: Sequence[str]) -> Mapping[str, str]:
    """Return no secret: nobody is there who could be asked."""
    return {}


def load_plan(
    target: str, pairs: Sequence[str], settings: Settings, ask: Ask = nobody_to_ask
) -> CompiledPlan:
    """Return the plan of what is at FILE[:NAME]. Raises PipelineInvalid with every fault."""
    return plan_of(load_definition(target), pairs, settings, ask=ask)


def load_definition(target: str) -> Definition:
    """Return the definition at FILE[:NAME]. Raises PipelineInvalid."""
    import_own_modules()
    return load(target)


def import_own_modules() -> None:
    """Import what this command may need later, before the user's folder enters `sys.path`.

    A file of the user's that is named like a dependency of ours is then never taken for it.
    """
    for name in OWN_MODULES:
        importlib.import_module(name)


def plan_of(
    definition: Definition,
    given: Sequence[str] | Mapping[str, Any],
    settings: Settings,
    recorded: ReadParams | None = None,
    ask: Ask = nobody_to_ask,
    *,
    is_open: bool = False,
) -> CompiledPlan:
    """Return the plan of a definition. Raises PipelineInvalid.

    `given` are key=value texts, or values by name. `recorded` are params of an earlier time, which
    are taken as they are; `given` are stronger, and
    those that are not declared any more are left. `ask` gets the names of secret params that are
    missing, and returns those that somebody knows. With `is_open` missing params are left open, as
    long as the steps do not depend on them: such a plan is only to be looked at.
    """
    if isinstance(given, Mapping):
        params = read_params(given, definition)
    else:
        params = parse_params(given, definition)
    if recorded is not None:
        params = (
            ReadParams({name: recorded[name] for name in recorded if name in definition.params})
            | params
        )
    if is_open:
        params = with_open_params(definition.params, params)
    else:
        params |= _secrets_asked_for(definition, params, ask)
    if lost := {name: value for name, value in params.items() if isinstance(value, Unkept)}:
        raise PipelineInvalid(
            definition.name,
            [
                f"the recorded value of param {name!r} cannot be used again:"
                f" {punctuated(value.reason)} "
                + (
                    param.how_to_give
                    if (param := definition.params[name]).is_secret
                    else f"Give it anew: -p {name}=…"
                )
                for name, value in lost.items()
            ],
        )
    pipeline = definition.build(params, pools=settings.pools)
    faults = [
        *_out_of_reach(pipeline),
        *_timeouts_in_vain(pipeline, settings),
        *_alerts_in_vain(pipeline),
    ]
    if faults:
        raise PipelineInvalid(pipeline.name, faults)
    began = time.perf_counter()
    plan = compile_pipeline(pipeline)
    return CompiledPlan(plan, time.perf_counter() - began)


def _secrets_asked_for(definition: Definition, params: ReadParams, ask: Ask) -> ReadParams:
    missing = [
        name
        for name, param in definition.params.items()
        if param.is_secret
        and (isinstance(params.get(name), Unkept) or (param.is_required and name not in params))
    ]
    return ReadParams(
        {name: SecretValue(text) for name, text in ask(missing).items()} if missing else {}
    )


def _out_of_reach(pipeline: Pipeline) -> list[str]:
    """Return a fault for each step whose function only this process has, as one of a notebook."""
    return [
        f"step {name!r}: function {step.call.uses.partition(':')[2]!r} was typed into this session,"
        " where no worker finds it. Write it into a file (in a notebook: %%writefile steps.py) and"
        " import it from there; run_local() runs it here."
        for name, step in pipeline.steps.items()
        if isinstance(step.call, FunctionCall) and step.call.uses.startswith("__main__:")
    ]


def _timeouts_in_vain(pipeline: Pipeline, settings: Settings) -> list[str]:
    """Return a fault for each step whose timeout its pool could not keep: only a process can be
    ended from outside."""
    kinds = {name: pool.pool_type for name, pool in settings.pools.items()}
    return [
        f"step {name!r} has a timeout, but pool {pool!r} is of type {kinds[pool]}, which cannot end"
        " a step. Use a prefork pool, or leave the timeout out."
        for name, step in pipeline.steps.items()
        if step.options.timeout
        and kinds[pool := step.options.pool or settings.default_pool] != "prefork"
    ]


def _alerts_in_vain(pipeline: Pipeline) -> list[str]:
    """Return a fault for each alert that nobody could send. One that lacks variables may be sent by
    a coordinator."""
    targets = [read_target(written, os.environ) for written in pipeline.alerts]
    return [
        f"alerts[{place}], {target.label}: {target.fault}"
        for place, target in enumerate(targets)
        if target.fault and not target.unset
    ]
