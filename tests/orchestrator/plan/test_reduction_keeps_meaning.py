"""A run on the edges that are left goes exactly as a run on the edges that the user wrote."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.definition.pipeline import TriggerRule
from orchestrator.plan.compile import compile_pipeline

ENDED = frozenset({"succeeded", "failed", "skipped", "upstream_failed"})
FAILED = frozenset({"failed", "upstream_failed"})


def judge(rule: TriggerRule, ends: Iterable[str]) -> str:
    """Return what a waiting step becomes, from the states of its upstreams: the trigger rules, word
    by word."""
    states = list(ends)
    all_ended = all(state in ENDED for state in states)
    any_failed = any(state in FAILED for state in states)
    match rule:
        case TriggerRule.ALL_SUCCESS:
            if any_failed:
                return "upstream_failed"
            if all_ended:
                return "skipped" if "skipped" in states else "running"
        case TriggerRule.ALL_DONE | TriggerRule.ALWAYS:
            if all_ended:
                return "running"
        case TriggerRule.ONE_FAILED:
            if any_failed:
                return "running"
            if all_ended:
                return "skipped"
        case TriggerRule.NONE_FAILED:
            if any_failed:
                return "upstream_failed"
            if all_ended:
                return "running"
    return "waiting"


def simulate(
    upstream: Mapping[str, Iterable[str]],
    rules: Mapping[str, TriggerRule],
    ends_as: Mapping[str, str],
    speed: Mapping[str, float],
) -> list[dict[str, str]]:
    """Return the states of all steps after each event of a run; of the running steps the fastest
    ends next."""
    state = dict.fromkeys(upstream, "waiting")
    history = []
    while True:
        changed = True
        while changed:
            changed = False
            for step in upstream:
                if state[step] == "waiting":
                    state[step] = judge(rules[step], [state[u] for u in upstream[step]])
                    changed |= state[step] != "waiting"
        history.append(dict(state))
        running = [step for step in upstream if state[step] == "running"]
        if not running:
            return history
        first = min(running, key=speed.__getitem__)
        state[first] = ends_as[first]


@st.composite
def runs(draw):
    """Return a graph with rules, and how each step ends and how fast, should it run."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    names = [f"s{i}" for i in range(draw(st.integers(1, 12)))]
    density = draw(st.floats(0.1, 0.9))
    other_rules = draw(st.floats(0, 0.7))
    trouble = draw(st.floats(0, 0.5))
    upstream = {v: [u for u in names[:i] if rng.random() < density] for i, v in enumerate(names)}
    rules = {
        v: rng.choice(list(TriggerRule)) if rng.random() < other_rules else TriggerRule.ALL_SUCCESS
        for v in names
    }
    ends_as = {
        v: rng.choice(["failed", "skipped"]) if rng.random() < trouble else "succeeded"
        for v in names
    }
    return upstream, rules, ends_as, {v: rng.random() for v in names}


@given(run=runs())
@settings(max_examples=1000, deadline=None)
def test_every_step_starts_at_the_same_moment_and_ends_in_the_same_state(pipeline_of, run):
    upstream, rules, ends_as, speed = run
    plan = compile_pipeline(pipeline_of(upstream, rules))

    as_written = simulate(upstream, rules, ends_as, speed)
    as_planned = simulate(plan.upstream, rules, ends_as, speed)

    assert as_planned == as_written
    assert set(as_planned[-1].values()) <= ENDED


def test_dropping_an_edge_across_another_rule_would_change_the_run(pipeline_of):
    # Guards the simulator: it must be able to see the fault that the exact rule avoids.
    upstream = {"a": [], "tidy": ["a"], "ship": ["a", "tidy"]}
    rules = {
        "a": TriggerRule.ALL_SUCCESS,
        "tidy": TriggerRule.ALL_DONE,
        "ship": TriggerRule.ALL_SUCCESS,
    }
    ends_as = {"a": "failed", "tidy": "succeeded", "ship": "succeeded"}
    speed = dict.fromkeys(upstream, 1.0)

    exact = simulate(upstream, rules, ends_as, speed)
    naive = simulate({**upstream, "ship": ["tidy"]}, rules, ends_as, speed)

    assert exact[-1]["ship"] == "upstream_failed"
    assert naive[-1]["ship"] == "succeeded"
    assert compile_pipeline(pipeline_of(upstream, rules)).redundant_edges == ()
