"""Compiling stays near linear, in time and memory, whatever the shape."""

from __future__ import annotations

import random
import tracemalloc

import pytest

from orchestrator.plan.compile import compile_pipeline

SEED = 7


def long_chain(count):
    return [[i - 1] if i else [] for i in range(count)]


def wide_fan(count):
    return [[], *([0] for _ in range(count - 2)), range(1, count - 1)]


def dense_layers(count, width=10):
    return [
        range((i // width - 1) * width, i // width * width) if i >= width else []
        for i in range(count)
    ]


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


SHAPES = [
    long_chain,
    wide_fan,
    dense_layers,
    dense_layers_with_skips,
    random_parents,
    random_listing,
]


@pytest.fixture(scope="module")
def pipeline_of_shape(pipeline_of):
    return lambda upstream: pipeline_of(
        {f"s{i}": [f"s{u}" for u in parents] for i, parents in enumerate(upstream)}
    )


def wide_dense_layers(count):
    return dense_layers(count // 10, width=100)


@pytest.mark.parametrize("shape", [*SHAPES, wide_dense_layers])
def test_twice_as_many_steps_compile_in_twice_the_time(pipeline_of_shape, cpu_growth, shape):
    once, twice = (pipeline_of_shape(shape(count)) for count in (4_000, 8_000))

    assert cpu_growth(lambda: compile_pipeline(once), lambda: compile_pipeline(twice)) <= 2.5


def test_compiling_takes_less_than_5_kb_a_step(pipeline_of_shape):
    pipeline = pipeline_of_shape(random_parents(30_000))

    tracemalloc.start()
    try:
        compile_pipeline(pipeline)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak_bytes < 30_000 * 5000
