"""Plans of real workflows. They lie beside the repository, or where WORKFLOWS_DIR says, and may be
absent."""

from __future__ import annotations

import gzip
import json
import os
from itertools import pairwise
from pathlib import Path

import pytest

from orchestrator.plan.compile import compile_pipeline

FOLDER = Path(os.environ.get("WORKFLOWS_DIR") or Path(__file__).parents[4] / "shared" / "workflows")
FILES = sorted(path for path in FOLDER.glob("*.json*") if path.name != "INDEX.json")

pytestmark = pytest.mark.skipif(
    not FILES, reason="no real workflows beside the repository; set WORKFLOWS_DIR"
)


def load(path: Path) -> dict[str, list[str]]:
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return {step["id"]: step["upstream"] for step in json.loads(text)["steps"]}


def edges_of(upstream) -> set[tuple[str, str]]:
    return {(u, v) for v, parents in upstream.items() for u in parents}


def redundant_by_definition(upstream, order) -> set[tuple[str, str]]:
    ancestors: dict[str, set[str]] = {}
    for v in order:
        ancestors[v] = set(upstream[v]).union(*(ancestors[u] for u in upstream[v]))
    return {(u, v) for u, v in edges_of(upstream) if any(u in ancestors[p] for p in upstream[v])}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_real_workflow_is_planned_exactly(pipeline_of, path):
    upstream = load(path)
    plan = compile_pipeline(pipeline_of(upstream))

    assert list(plan.pipeline.steps) == list(upstream)
    assert sorted(step for chain in plan.chains for step in chain) == sorted(upstream)
    links = {link for chain in plan.chains for link in pairwise(chain)}
    joins = {
        (plan.chains[i][-1], plan.chains[chord.body][0])
        for chord in plan.chords
        for i in chord.header
    }
    assert links | joins == edges_of(plan.upstream)
    assert edges_of(plan.upstream) | set(plan.redundant_edges) == edges_of(upstream)
    assert plan.edge_count == len(edges_of(upstream))
    if len(upstream) < 2000:
        assert set(plan.redundant_edges) == redundant_by_definition(upstream, plan.order)


def test_the_critical_paths_are_as_deep_as_the_index_says(pipeline_of):
    for entry in json.loads((FOLDER / "INDEX.json").read_text()):
        plan = compile_pipeline(pipeline_of(load(FOLDER / entry["file"])))

        assert len(plan.critical_path) == entry["depth"], entry["name"]
        assert (len(plan.order), plan.edge_count) == (entry["steps"], entry["edges"]), entry["name"]
