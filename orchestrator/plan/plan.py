"""The compiled pipeline: chains and the chords that join them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.definition.pipeline import Pipeline


@dataclass(frozen=True, slots=True)
class Chord:
    """A fan-in: the chains in `header` must end before the chain `body` may start. All are chain
    indexes."""

    header: tuple[int, ...]
    body: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A pipeline cut into flat fragments, exact for every DAG.

    `upstream` and `downstream` are the edges that are left after the transitive reduction, in
    listing order. `chains` are the maximal linear runs of steps; every step stands in exactly one.
    `roots` are the chains that wait for nothing. `edge_count` counts the edges as the user wrote
    them. `critical_path` is a longest path, counted in steps.
    """

    pipeline: Pipeline
    order: tuple[str, ...]
    upstream: Mapping[str, tuple[str, ...]]
    downstream: Mapping[str, tuple[str, ...]]
    edge_count: int
    redundant_edges: tuple[tuple[str, str], ...]
    chains: tuple[tuple[str, ...], ...]
    chords: tuple[Chord, ...]
    roots: tuple[int, ...]
    critical_path: tuple[str, ...]

    @property
    def levels(self) -> tuple[tuple[str, ...], ...]:
        """The steps by how many stand above them on the longest path to them, in listing order."""
        depths: dict[str, int] = {}
        for step in self.order:
            depths[step] = 1 + max((depths[up] for up in self.upstream[step]), default=-1)
        levels: list[list[str]] = [[] for _ in set(depths.values())]
        for step in self.pipeline.steps:
            levels[depths[step]].append(step)
        return tuple(map(tuple, levels))
