"""Loops in a directed graph, found without recursion in time linear in nodes and edges."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping


def find_loops(upstream: Mapping[str, Iterable[str]]) -> list[tuple[str, ...]]:
    """Return one loop for each strongly connected component that has one.

    A loop is written in the direction of the data, and ends with the name that it begins with. It
    is a shortest loop through the first listed member of the component. Upstreams that are not keys
    of the mapping are passed over.
    """
    listed = {name: index for index, name in enumerate(upstream)}
    loops = []
    for members in _components(upstream, _entangled(upstream)):
        first = min(members, key=listed.__getitem__)
        if len(members) > 1 or first in upstream[first]:
            loops.append(_shortest_loop(upstream, first, set(members)))
    return sorted(loops, key=lambda loop: listed[loop[0]])


def _entangled(upstream: Mapping[str, Iterable[str]]) -> set[str]:
    """Return the nodes that are left when, again and again, every node without an upstream is taken
    away."""
    waits = {name: {up for up in ups if up in upstream} for name, ups in upstream.items()}
    downstream: dict[str, list[str]] = {}
    for name, ups in waits.items():
        for up in ups:
            downstream.setdefault(up, []).append(name)
    left = {name: len(ups) for name, ups in waits.items()}
    ready = [name for name, count in left.items() if not count]
    while ready:
        name = ready.pop()
        del left[name]
        for down in downstream.get(name, ()):
            left[down] -= 1
            if not left[down]:
                ready.append(down)
    return set(left)


def _components(upstream: Mapping[str, Iterable[str]], nodes: Collection[str]) -> list[list[str]]:
    """Return the strongly connected components among `nodes` (Tarjan's algorithm, with a stack of
    its own)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    open_nodes: list[str] = []
    is_open: set[str] = set()
    components: list[list[str]] = []
    for root in nodes:
        if root in index:
            continue
        work = [(root, iter(upstream[root]))]
        index[root] = low[root] = len(index)
        open_nodes.append(root)
        is_open.add(root)
        while work:
            node, rest = work[-1]
            for up in rest:
                if up not in nodes:
                    continue
                if up not in index:
                    index[up] = low[up] = len(index)
                    open_nodes.append(up)
                    is_open.add(up)
                    work.append((up, iter(upstream[up])))
                    break
                if up in is_open:
                    low[node] = min(low[node], index[up])
            else:
                work.pop()
                if work:
                    parent = work[-1][0]
                    low[parent] = min(low[parent], low[node])
                if low[node] == index[node]:
                    at = len(open_nodes) - 1
                    while open_nodes[at] != node:
                        at -= 1
                    components.append(open_nodes[at:])
                    is_open.difference_update(open_nodes[at:])
                    del open_nodes[at:]
    return components


def _shortest_loop(
    upstream: Mapping[str, Iterable[str]], first: str, members: set[str]
) -> tuple[str, ...]:
    """Walk breadth first against the data from `first` until it is met again."""
    came_from: dict[str, str] = {}
    queue = deque([first])
    while queue:
        node = queue.popleft()
        for up in upstream[node]:
            if up == first:
                loop = [first, node]
                while loop[-1] != first:
                    loop.append(came_from[loop[-1]])
                return tuple(loop)
            if up in members and up not in came_from:
                came_from[up] = node
                queue.append(up)
    raise AssertionError(f"no loop through {first!r}, though its component has one")
