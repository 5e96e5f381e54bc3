"""Drawings of a plan hold each step and each edge of the user's, once."""

from __future__ import annotations

import re
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.plan.drawing import dot_text, mermaid_text
from tests.support.runs import graph, random_graph


@given(seed=st.integers(0, 2**32))
@settings(max_examples=60)
def test_every_step_and_every_edge_is_drawn_once(seed: int) -> None:
    plan = random_graph(Random(seed), 10, other_rules=0.3).plan()
    steps = plan.pipeline.steps
    edges = sorted((up, name) for name, step in steps.items() for up in step.upstream)

    mermaid, dot = mermaid_text(plan), dot_text(plan)

    nodes = dict(re.findall(r'^  (s\d+)\["([^"<]+)', mermaid, re.M))
    assert list(nodes.values()) == list(steps)
    drawn = re.findall(r"^  (s\d+) --> (s\d+)$", mermaid, re.M)
    assert sorted((nodes[up], nodes[name]) for up, name in drawn) == edges
    assert re.findall(r'^  "([^"]+)" \[label', dot, re.M) == list(steps)
    assert sorted(re.findall(r'^  "([^"]+)" -> "([^"]+)";$', dot, re.M)) == edges


def test_a_drawing_is_whole_and_names_other_rules() -> None:
    plan = graph({"load": "", "train[eu]": "load", "tidy": "load"}, {"tidy": "all_done"}).plan()

    assert mermaid_text(plan).splitlines() == [
        "flowchart LR",
        '  s0["load"]',
        '  s1["train[eu]"]',
        '  s2["tidy<br/>all_done"]',
        "  s0 --> s1",
        "  s0 --> s2",
    ]
    assert dot_text(plan).splitlines() == [
        'digraph "p" {',
        "  rankdir=LR;",
        '  "load" [label="load"];',
        '  "train[eu]" [label="train[eu]"];',
        '  "tidy" [label="tidy\\nall_done"];',
        '  "load" -> "train[eu]";',
        '  "load" -> "tidy";',
        "}",
    ]
