"""From FILE[:NAME] and -p to a plan: what `run`, `submit` and `plan` share."""

from __future__ import annotations

import time
from collections.abc import Sequence

from orchestrator.definition.loading import load, parse_params
from orchestrator.plan.compile import compile_pipeline
from orchestrator.plan.plan import Plan
from orchestrator.settings import Settings


def load_plan(target: str, pairs: Sequence[str], settings: Settings) -> tuple[Plan, float]:
    """Give the compiled plan and the seconds that compiling took. Raises PipelineInvalid with every fault."""
    definition = load(target)
    pipeline = definition.build(parse_params(pairs, definition), pools=settings.pools)
    began = time.perf_counter()
    plan = compile_pipeline(pipeline)
    return plan, time.perf_counter() - began
