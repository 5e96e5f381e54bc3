"""Laws that hold for the plan of every graph, tried on random ones with random trigger rules."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.definition.pipeline import TriggerRule
from orchestrator.plan import graph
from orchestrator.plan.compile import compile_pipeline

Edge = tuple[str, str]
SUCCESS = TriggerRule.ALL_SUCCESS


@st.composite
def upstreams(draw, max_steps=11):
    """Return upstreams by step, listed and named in any order, now and then with a repeat."""
    count = draw(st.integers(0, max_steps))
    density = draw(st.floats(0.05, 0.9))
    rng = random.Random(draw(st.integers(0, 2**32)))
    names = [f"s{i}" for i in range(count)]
    rng.shuffle(names)
    steps = {}
    for i, name in enumerate(names):
        parents = [names[j] for j in range(i) if rng.random() < density]
        rng.shuffle(parents)
        steps[name] = parents + parents[:1] * (rng.random() < 0.1)
    listing = draw(st.permutations(names))
    return {name: steps[name] for name in listing}


@st.composite
def upstreams_and_rules(draw):
    steps = draw(upstreams())
    any_rule = st.sampled_from([SUCCESS, SUCCESS, *TriggerRule])
    return steps, {name: draw(any_rule) for name in steps}


def edges_of(upstream: Mapping[str, Iterable[str]]) -> set[Edge]:
    return {(u, v) for v, parents in upstream.items() for u in parents}


def redundant_by_definition(upstream, rules) -> set[Edge]:
    """Return the edges (u, v) with a way around: u → … → p → v, where each step after u needs
    success."""
    children = {u: [v for v in upstream if u in upstream[v]] for u in upstream}

    def has_way_around(u: str, v: str) -> bool:
        reached = [w for w in children[u] if w != v]
        while reached:
            w = reached.pop()
            if w == v:
                return True
            if rules[w] is SUCCESS:
                reached += children[w]
        return False

    return {(u, v) for u, v in edges_of(upstream) if rules[v] is SUCCESS and has_way_around(u, v)}


def closure(edges: set[Edge]) -> set[Edge]:
    closed = set(edges)
    while more := {(a, d) for a, b in closed for c, d in edges if b == c} - closed:
        closed |= more
    return closed


@given(drawn=upstreams_and_rules())
@settings(max_examples=300, deadline=None)
def test_the_reduction_is_the_one_by_definition(pipeline_of, drawn):
    upstream, rules = drawn
    plan = compile_pipeline(pipeline_of(upstream, rules))

    redundant = redundant_by_definition(upstream, rules)
    assert set(plan.redundant_edges) == redundant
    assert len(plan.redundant_edges) == len(redundant)
    assert edges_of(plan.upstream) == edges_of(upstream) - redundant
    assert plan.edge_count == len(edges_of(upstream))


@given(drawn=upstreams_and_rules())
@settings(max_examples=100, deadline=None)
def test_the_size_of_a_block_does_not_change_the_reduction(pipeline_of, drawn):
    upstream, rules = drawn
    names = list(upstream)
    numbers = [[names.index(u) for u in dict.fromkeys(upstream[v])] for v in names]
    order = graph.topological_order(numbers)
    needs_success = [rules[v] is SUCCESS for v in names]
    depth = graph.depths(numbers, order)

    for bits in (1, 2, 3):
        redundant = graph.find_redundant_edges(
            numbers, order, depth, needs_success, block_bits=bits
        )
        assert {(names[u], names[v]) for u, v in redundant} == redundant_by_definition(
            upstream, rules
        )


@given(upstream=upstreams())
@settings(deadline=None)
def test_with_all_success_everything_still_comes_before_what_it_came_before(pipeline_of, upstream):
    plan = compile_pipeline(pipeline_of(upstream))

    kept = edges_of(plan.upstream)
    assert closure(kept) == closure(edges_of(upstream))
    for edge in kept:
        assert closure(kept - {edge}) != closure(kept), f"{edge} is redundant"


@given(drawn=upstreams_and_rules())
@settings(deadline=None)
def test_the_order_puts_every_upstream_first_and_otherwise_follows_the_listing(pipeline_of, drawn):
    upstream, rules = drawn
    order = compile_pipeline(pipeline_of(upstream, rules)).order

    listing = list(upstream)
    done: set[str] = set()
    for step in order:
        ready = [name for name in listing if name not in done and done >= set(upstream[name])]
        assert step == ready[0]
        done.add(step)
    assert len(order) == len(listing)


@given(drawn=upstreams_and_rules())
@settings(deadline=None)
def test_chains_part_the_steps_into_maximal_straight_lines(pipeline_of, drawn):
    plan = compile_pipeline(pipeline_of(*drawn))

    assert sorted(step for chain in plan.chains for step in chain) == sorted(plan.order)
    links = {link for chain in plan.chains for link in pairwise(chain)}
    straight = {
        (u, v)
        for u, v in edges_of(plan.upstream)
        if plan.downstream[u] == (v,) and plan.upstream[v] == (u,)
    }
    assert links == straight
    heads = [plan.order.index(chain[0]) for chain in plan.chains]
    assert heads == sorted(heads)


@given(drawn=upstreams_and_rules())
@settings(deadline=None)
def test_chains_and_chords_hold_exactly_the_edges_that_are_left(pipeline_of, drawn):
    plan = compile_pipeline(pipeline_of(*drawn))

    links = {link for chain in plan.chains for link in pairwise(chain)}
    # What a chord makes wait: the body's first step, for the end of each header chain, its last
    # step.
    joins = {
        (plan.chains[i][-1], plan.chains[chord.body][0])
        for chord in plan.chords
        for i in chord.header
    }
    assert (
        links | joins
        == edges_of(plan.upstream)
        == {(u, v) for u in plan.downstream for v in plan.downstream[u]}
    )
    assert not links & joins
    # One place for each fan-in, and what waits for nothing is a root.
    bodies = [chord.body for chord in plan.chords]
    assert sorted([*bodies, *plan.roots]) == list(range(len(plan.chains)))
    for chord in plan.chords:
        assert [plan.chains[i][-1] for i in chord.header] == list(
            plan.upstream[plan.chains[chord.body][0]]
        )


@given(drawn=upstreams_and_rules(), seed=st.integers(0, 2**32))
@settings(deadline=None)
def test_any_listing_gives_the_same_chains_and_the_same_joins(pipeline_of, drawn, seed):
    upstream, rules = drawn
    listing = list(upstream)
    random.Random(seed).shuffle(listing)

    plans = [
        compile_pipeline(pipeline_of(up, rules))
        for up in (upstream, {v: upstream[v] for v in listing})
    ]

    def shape(plan):
        joins = {
            (plan.chains[c.body], frozenset(plan.chains[i] for i in c.header)) for c in plan.chords
        }
        return (
            set(plan.chains),
            joins,
            {plan.chains[i] for i in plan.roots},
            set(plan.redundant_edges),
        )

    assert shape(plans[0]) == shape(plans[1])


@given(drawn=upstreams_and_rules())
@settings(deadline=None)
def test_the_critical_path_is_a_longest_one(pipeline_of, drawn):
    upstream, rules = drawn
    plan = compile_pipeline(pipeline_of(upstream, rules))

    longest: dict[str, int] = {}
    for step in plan.order:
        longest[step] = 1 + max((longest[u] for u in upstream[step]), default=0)
    assert len(plan.critical_path) == max(longest.values(), default=0)
    assert set(pairwise(plan.critical_path)) <= edges_of(plan.upstream)


@given(drawn=upstreams_and_rules())
@settings(deadline=None)
def test_the_same_pipeline_gives_the_same_plan(pipeline_of, drawn):
    pipeline = pipeline_of(*drawn)

    assert compile_pipeline(pipeline) == compile_pipeline(pipeline)
