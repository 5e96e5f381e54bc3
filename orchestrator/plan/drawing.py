"""A plan as a drawing: Mermaid for pages of GitHub and notebooks, DOT for Graphviz."""

from __future__ import annotations

import json

from orchestrator.definition.pipeline import TriggerRule
from orchestrator.plan.plan import Plan


def mermaid_text(plan: Plan) -> str:
    """Return a Mermaid flowchart of the steps and the edges as the user wrote them. A step with
    another trigger rule than all_success says so."""
    steps = plan.pipeline.steps
    names = {name: f"s{place}" for place, name in enumerate(steps)}
    nodes = [f'  {names[name]}["{_label(plan, name, "<br/>")}"]' for name in steps]
    edges = [
        f"  {names[upstream]} --> {names[name]}"
        for name, step in steps.items()
        for upstream in step.upstream
    ]
    return "\n".join(["flowchart LR", *nodes, *edges]) + "\n"


def dot_text(plan: Plan) -> str:
    """Return the same as a digraph in DOT."""
    steps = plan.pipeline.steps
    nodes = [f"  {_quoted(name)} [label={_quoted(_label(plan, name, chr(10)))}];" for name in steps]
    edges = [
        f"  {_quoted(upstream)} -> {_quoted(name)};"
        for name, step in steps.items()
        for upstream in step.upstream
    ]
    head = f"digraph {_quoted(plan.pipeline.name)} {{"
    return "\n".join([head, "  rankdir=LR;", *nodes, *edges, "}"]) + "\n"


def _label(plan: Plan, name: str, newline: str) -> str:
    rule = plan.pipeline.steps[name].options.trigger
    return name if rule == TriggerRule.ALL_SUCCESS.value else f"{name}{newline}{rule}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
