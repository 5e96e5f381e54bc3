"""Compiling stays near linear, in time and memory, whatever the shape."""

from __future__ import annotations

import random
import time
import tracemalloc

import pytest

from orchestrator.plan.compile import compile_pipeline

pytestmark = pytest.mark.alone  # it measures time

SEED = 7


def long_chain(count):
    return [[i - 1] if i else [] for i in range(count)]


def wide_fan(count):
    return [[], *([0] for _ in range(count - 2)), range(1, count - 1)]


def dense_layers(count, width=10):
    return [range((i // width - 1) * width, i // width * width) if i >= width else [] for i in range(count)]


def dense_layers_with_skips(count, width=10):
    return [range(max(0, (i // width - 2) * width), i // width * width) for i in range(count)]


def random_parents(count):
    rng = random.Random(SEED)
    return [rng.sample(range(i), min(i, 3)) for i in range(count)]


def random_listing(count):
    rng = random.Random(SEED)
    place = list(range(count))
    rng.shuffle(place)
    upstream = [[]] * count
    for i, parents in enumerate(random_parents(count)):
        upstream[place[i]] = [place[u] for u in parents]
    return upstream


SHAPES = [long_chain, wide_fan, dense_layers, dense_layers_with_skips, random_parents, random_listing]


@pytest.fixture(scope="module")
def pipeline_of_shape(pipeline_of):
    return lambda upstream: pipeline_of({f"s{i}": [f"s{u}" for u in parents] for i, parents in enumerate(upstream)})


def compile_seconds(pipeline):
    start = time.perf_counter()
    plan = compile_pipeline(pipeline)
    spent_s = time.perf_counter() - start
    print(f"{len(plan.order)} steps, {plan.edge_count} edges, seed {SEED}: {spent_s:.3f} s")
    return spent_s


@pytest.mark.parametrize("shape", SHAPES)
def test_10_000_steps_compile_in_2_s(pipeline_of_shape, shape):
    assert compile_seconds(pipeline_of_shape(shape(10_000))) < 2


def test_wide_dense_layers_compile_in_2_s(pipeline_of_shape):
    assert compile_seconds(pipeline_of_shape(dense_layers(1000, width=100))) < 2


@pytest.mark.parametrize("shape", [long_chain, random_parents])
def test_100_000_steps_compile_in_20_s(pipeline_of_shape, shape):
    assert compile_seconds(pipeline_of_shape(shape(100_000))) < 20


def test_compiling_takes_less_than_5_kb_a_step(pipeline_of_shape):
    pipeline = pipeline_of_shape(random_parents(30_000))

    tracemalloc.start()
    try:
        compile_pipeline(pipeline)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak_bytes < 30_000 * 5000
