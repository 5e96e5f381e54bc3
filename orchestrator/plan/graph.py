"""The graph under a plan: topological order, loops, depths and the exact transitive reduction.

Steps are numbers here, their place in the user's listing. `upstream[v]` holds the distinct
upstreams of step v.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush

Upstream = Sequence[Sequence[int]]

_BLOCK_BITS = 8192  # sources looked at in one pass: fewer passes against wider integers
_LIVE_BITS = 1 << 30  # what one pass may hold in all its bitsets together: 128 MB


def downstream_of(upstream: Upstream) -> list[list[int]]:
    """Return the steps that wait for each step, in listing order."""
    downstream: list[list[int]] = [[] for _ in upstream]
    for v, parents in enumerate(upstream):
        for u in parents:
            downstream[u].append(v)
    return downstream


def topological_order(upstream: Upstream) -> list[int]:
    """Return the steps with every upstream first; of several possible ones, the first listed goes
    first.

    So a listing that is already in order stays as it is. Steps in a loop, or behind one, are left
    out.
    """
    waits_for = [len(parents) for parents in upstream]
    downstream = downstream_of(upstream)
    ready = [v for v, count in enumerate(waits_for) if not count]
    heapify(ready)
    order = []
    while ready:
        u = heappop(ready)
        order.append(u)
        for v in downstream[u]:
            waits_for[v] -= 1
            if not waits_for[v]:
                heappush(ready, v)
    return order


def depths(upstream: Upstream, order: Sequence[int]) -> list[int]:
    """Return for each step the number of edges on the longest path that ends in it."""
    depth = [0] * len(upstream)
    for v in order:
        if parents := upstream[v]:
            depth[v] = 1 + max([depth[u] for u in parents])
    return depth


def find_redundant_edges(
    upstream: Upstream,
    order: Sequence[int],
    depth: Sequence[int],
    needs_success: Sequence[bool],
    *,
    block_bits: int | None = None,
) -> set[tuple[int, int]]:
    """Return the edges (u, v) that say nothing which the other edges into v do not say already.

    `needs_success[v]` says that v starts only when every upstream succeeded (trigger rule
    all_success).

    Such a step, once it succeeded, proves that all its upstreams succeeded, and theirs, as far back
    as the rule holds; and when one of them failed or was skipped, that reaches it too. A step with
    another rule may run although its upstream failed or has not ended, so it proves nothing about
    what is before it: the search stops there. An edge into such a step is never dropped, for its
    rule counts the ends of these very upstreams.

    Proven ancestors are kept as bitsets, for a block of sources at a time, over the part of the
    order between the block's first source and its last target. `block_bits` sources go into a
    block, by default as many as keep a pass within its memory.
    """
    last_target = _last_targets(upstream, order, depth, needs_success)
    if not last_target:
        return set()
    rank = sorted(range(len(order)), key=order.__getitem__)
    # From here on steps are ranks. The nearest parent comes first: only it can prove the others.
    parents_of = [
        sorted([rank[u] for u in upstream[v]], reverse=True) if needs_success[v] else ()
        for v in order
    ]
    sources = sorted((rank[u], rank[v]) for u, v in last_target.items())
    block = block_bits or max(64, min(_BLOCK_BITS, _LIVE_BITS // len(order)))
    redundant = set()
    own = [0] * len(order)  # the bit of a source of this block
    # sources of this block that a success of this step proves, with itself
    proven = [0] * len(order)
    for start in range(0, len(sources), block):
        batch = sources[start : start + block]
        first, last = batch[0][0], max(target for _, target in batch)
        for i, (u, _) in enumerate(batch):
            own[u] = 1 << i
        for v in range(first, last + 1):
            seen = 0
            for u in parents_of[v]:
                if u < first:
                    break
                bit = own[u]
                if bit and seen & bit:
                    redundant.add((order[u], order[v]))
                elif seen:
                    seen |= proven[u]
                else:
                    seen = proven[u]
            proven[v] = seen | own[v] if own[v] else seen
        for u, _ in batch:
            own[u] = 0
        proven[first : last + 1] = [0] * (last + 1 - first)
    return redundant


def _last_targets(
    upstream: Upstream, order: Sequence[int], depth: Sequence[int], needs_success: Sequence[bool]
) -> dict[int, int]:
    """Return each u that may have a redundant edge, with the last v in the order of such edges.

    Cheap and on the safe side: the path around (u, v) ends in a deeper parent of v that needs
    success, and leaves u by another edge.
    """
    children = [0] * len(upstream)
    for parents in upstream:
        for u in parents:
            children[u] += 1
    last_target = {}
    for v in order:
        parents = upstream[v]
        if len(parents) > 1 and needs_success[v]:
            deepest = max([depth[u] for u in parents if needs_success[u]], default=0)
            for u in parents:
                if depth[u] < deepest and children[u] > 1:
                    last_target[u] = v
    return last_target
