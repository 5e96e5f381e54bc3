"""Pipelines for the tests of the plan, from nothing but a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import pytest

from orchestrator.definition.options import StepOptions
from orchestrator.definition.pipeline import Pipeline, ShellCall, Step, TriggerRule

PipelineOf = Callable[..., Pipeline]


@pytest.fixture(scope="session")
def pipeline_of() -> PipelineOf:
    """Return a builder: upstreams by step, as "a b" or a list, and the rules that are not
    all_success."""
    options = {rule: StepOptions(trigger=rule.value) for rule in TriggerRule}
    call = ShellCall("true")

    def build(
        upstream: Mapping[str, str | Iterable[str]], rules: Mapping[str, TriggerRule] | None = None
    ) -> Pipeline:
        rules = rules or {}
        steps = {}
        for name, parents in upstream.items():
            parents = tuple(parents.split() if isinstance(parents, str) else parents)
            steps[name] = Step(
                name, call, parents, options[rules.get(name, TriggerRule.ALL_SUCCESS)]
            )
        return Pipeline("p", steps)

    return build
