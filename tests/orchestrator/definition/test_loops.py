"""Loops of a graph."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.definition.loops import find_loops


def test_a_loop_is_written_in_the_direction_of_the_data() -> None:
    assert find_loops({"a": ["c"], "b": ["a"], "c": ["b"]}) == [("a", "b", "c", "a")]


def test_a_step_that_waits_for_itself_is_a_loop() -> None:
    assert find_loops({"a": ["a"], "b": ["a"]}) == [("a", "a")]


def test_each_component_gives_one_loop() -> None:
    graph = {"a": ["b"], "b": ["a", "x"], "c": ["d", "a"], "d": ["c"], "x": [], "y": ["c"]}
    assert find_loops(graph) == [("a", "b", "a"), ("c", "d", "c")]


def test_unknown_upstreams_are_passed_over() -> None:
    assert find_loops({"a": ["zzz"]}) == []


def test_a_loop_longer_than_the_recursion_limit_is_found() -> None:
    count = 20_000
    graph = {str(i): [str((i - 1) % count)] for i in range(count)}
    (loop,) = find_loops(graph)
    assert len(loop) == count + 1


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=30))
def test_loops_are_real_and_none_is_missed(edges: list[tuple[int, int]]) -> None:
    graph: dict[str, list[str]] = {str(i): [] for i in range(9)}
    for up, down in edges:
        graph[str(down)].append(str(up))

    loops = find_loops(graph)

    for loop in loops:
        assert loop[0] == loop[-1]
        assert all(up in graph[down] for up, down in pairwise(loop))
    # take away one member of each loop's component until nothing is left but an acyclic graph
    reach = {node: set(ups) for node, ups in graph.items()}
    for middle in graph:
        for node in graph:
            if middle in reach[node]:
                reach[node] |= reach[middle]
    on_loops = {node for node in graph if node in reach[node]}
    components = {
        frozenset(o for o in on_loops if o in reach[n] and n in reach[o]) | {n} for n in on_loops
    }
    assert len(loops) == len(components)
