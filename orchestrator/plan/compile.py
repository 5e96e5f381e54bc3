"""From a pipeline to its plan: drop redundant edges, cut the rest into chains, join them by
chords."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from orchestrator.definition.loops import find_loops
from orchestrator.definition.pipeline import Pipeline, TriggerRule
from orchestrator.errors import PipelineInvalid, names_hint
from orchestrator.plan.graph import depths, downstream_of, find_redundant_edges, topological_order
from orchestrator.plan.plan import Chord, Plan


def compile_pipeline(pipeline: Pipeline, *, unproven: Collection[str] = ()) -> Plan:
    """Return the plan of a pipeline: the same waiting as its edges say, no barrier added and none
    lost.

    The same pipeline always gives the same plan. `unproven` are steps whose success says nothing of
    what is before them: in a run that goes on, those that are kept though something before them
    runs anew. Raises PipelineInvalid for a loop or an unknown upstream, which a pipeline from the
    definition side does not have.
    """
    names = tuple(pipeline.steps)
    written = _upstream_numbers(pipeline)
    order = topological_order(written)
    if len(order) < len(names):
        loop = " -> ".join(
            find_loops({name: step.upstream for name, step in pipeline.steps.items()})[0]
        )
        raise PipelineInvalid(
            pipeline.name, [f"steps form a loop: {loop}. Remove one of these inputs."]
        )
    depth = depths(written, order)
    needs_success = [
        TriggerRule(step.options.trigger) is TriggerRule.ALL_SUCCESS and name not in unproven
        for name, step in pipeline.steps.items()
    ]
    redundant = find_redundant_edges(written, order, depth, needs_success)
    upstream = written
    if redundant:
        upstream = [
            [u for u in parents if (u, v) not in redundant] for v, parents in enumerate(written)
        ]
    downstream = downstream_of(upstream)
    chains = _cut_chains(order, upstream, downstream)
    return Plan(
        pipeline=pipeline,
        order=tuple([names[v] for v in order]),
        upstream={
            names[v]: tuple([names[u] for u in parents]) for v, parents in enumerate(upstream)
        },
        downstream={
            names[u]: tuple([names[v] for v in children]) for u, children in enumerate(downstream)
        },
        edge_count=sum(map(len, written)),
        redundant_edges=_in_listing_order(redundant, written, names),
        chains=tuple([tuple([names[v] for v in chain]) for chain in chains]),
        chords=_join_chains(chains, upstream),
        roots=tuple([i for i, chain in enumerate(chains) if not upstream[chain[0]]]),
        critical_path=tuple([names[v] for v in _longest_path(upstream, order, depth)]),
    )


def _upstream_numbers(pipeline: Pipeline) -> list[list[int]]:
    """Return the distinct upstreams of each step as numbers, in the order in which the step names
    them."""
    number = {name: v for v, name in enumerate(pipeline.steps)}
    try:
        return [
            [number[u] for u in dict.fromkeys(step.upstream)] for step in pipeline.steps.values()
        ]
    except KeyError:
        raise PipelineInvalid(
            pipeline.name,
            [
                f"step {name!r} waits for {u!r}, which is not a step.{names_hint(u, number)}"
                for name, step in pipeline.steps.items()
                for u in dict.fromkeys(step.upstream)
                if u not in number
            ],
        ) from None


def _cut_chains(
    order: Sequence[int], upstream: Sequence[Sequence[int]], downstream: Sequence[Sequence[int]]
) -> list[list[int]]:
    """Return the maximal linear runs, by the place of their heads in the order.

    u → v stays inside a run only when neither has another partner on that side.
    """
    chains = []
    for head in order:
        parents = upstream[head]
        if len(parents) == 1 and len(downstream[parents[0]]) == 1:
            continue
        chain = [head]
        children = downstream[head]
        while len(children) == 1 and len(upstream[children[0]]) == 1:
            chain.append(children[0])
            children = downstream[children[0]]
        chains.append(chain)
    return chains


def _join_chains(
    chains: Sequence[Sequence[int]], upstream: Sequence[Sequence[int]]
) -> tuple[Chord, ...]:
    """Return one chord for each chain that waits for something, a fork being a chord with a header
    of one."""
    # Only the last step of a chain has edges that leave the chain: any step before it has the next
    # one as its only child. So "the chain has ended" and "this upstream has ended" are the same,
    # and no chord waits for too much.
    chain_ended_by = {chain[-1]: i for i, chain in enumerate(chains)}
    return tuple(
        [
            Chord(header=tuple([chain_ended_by[u] for u in upstream[chain[0]]]), body=body)
            for body, chain in enumerate(chains)
            if upstream[chain[0]]
        ]
    )


def _longest_path(
    upstream: Sequence[Sequence[int]], order: Sequence[int], depth: Sequence[int]
) -> list[int]:
    """Return a path with the most steps. No redundant edge is missed: each has a longer path around
    it."""
    if not order:
        return []
    v = max(order, key=depth.__getitem__)
    path = [v]
    while depth[v]:
        v = next(u for u in upstream[v] if depth[u] == depth[v] - 1)
        path.append(v)
    return path[::-1]


def _in_listing_order(
    edges: set[tuple[int, int]], written: Sequence[Sequence[int]], names: Sequence[str]
) -> tuple[tuple[str, str], ...]:
    if not edges:
        return ()
    return tuple(
        [
            (names[u], names[v])
            for v, parents in enumerate(written)
            for u in parents
            if (u, v) in edges
        ]
    )
