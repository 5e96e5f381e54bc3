"""Functions whose call gives nothing but something yet to be run: no steps."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from orchestrator import PipelineBuilder, PipelineInvalid, step


async def fetch() -> int:
    return 1


def rows() -> Iterator[int]:
    yield 1


async def stream() -> AsyncIterator[int]:
    yield 1


class AsyncCallable:
    async def __call__(self) -> int:
        return 1


@functools.wraps(fetch)
def run_fetch() -> int:
    return asyncio.run(fetch())


run_fetch.__name__ = run_fetch.__qualname__ = "run_fetch"
fetch_step = step(fetch)
half_done = functools.partial(functools.partial(fetch))
async_object = AsyncCallable()


@pytest.mark.parametrize(
    ("function", "name", "kind"),
    [
        (fetch, "fetch", "async"),
        (rows, "rows", "a generator"),
        (stream, "stream", "an async generator"),
        (fetch_step, "fetch", "async"),
        (f"{__name__}:fetch", "fetch", "async"),
        (f"{__name__}:fetch_step", "fetch_step", "async"),
        (f"{__name__}:half_done", "half_done", "async"),
        (f"{__name__}:async_object", "async_object", "async"),
    ],
)
def test_a_function_that_returns_no_value_is_no_step(function: Any, name: str, kind: str) -> None:
    builder = PipelineBuilder("p")
    builder.add("x", function)

    with pytest.raises(PipelineInvalid) as caught:
        builder.build()

    assert caught.value.faults == (
        (
            f"step 'x': '{__name__}:{name}' is {kind}; a step is a plain function that returns its"
            " value."
        ),
    )


@pytest.mark.parametrize("function", [run_fetch, "builtins:dict", "operator:itemgetter"])
def test_a_plain_function_around_an_async_one_and_a_class_are_steps(
    function: Callable[..., Any] | str,
) -> None:
    builder = PipelineBuilder("p")
    builder.add("x", function, args=["a"] if function == "operator:itemgetter" else [])

    assert list(builder.build().steps) == ["x"]
