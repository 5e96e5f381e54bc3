"""Numeric libraries use a slot's share of the cores, or what a step, its pool or the user says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from orchestrator.cores import available_cores
from orchestrator.definition.pipeline import Pipeline
from orchestrator.local.worker import local_worker
from orchestrator.settings.model import Settings
from orchestrator.settings.pools import PoolSettings
from orchestrator.worker.thread_shares import OF_THREADPOOLCTL
from tests.support.fixtures import PipelineFrom
from tests.support.worker_runs import Runs

pytest.importorskip("numpy")

SEEN = """
    import os, pathlib, subprocess, sys

    def libraries():
        import numpy, sklearn, scipy.linalg
        from threadpoolctl import threadpool_info
        numpy.ones((9, 9)) @ numpy.ones((9, 9))
        # OpenBLAS has no more threads than the machine has cores, whatever it is asked for.
        return max(library["num_threads"] for library in threadpool_info())

    def seen():
        command = subprocess.check_output("echo $OMP_NUM_THREADS $OPENBLAS_NUM_THREADS", shell=True, text=True)
        return [os.environ.get("OMP_NUM_THREADS"), command.split(), libraries()]

    @step
    def share(before=None):
        return seen()

    @step(threads=3)
    def three(before=None):
        return seen()

    @step(threads=1)
    def one(before=None):
        return seen()

    @step
    def sets_itself(before=None):
        from threadpoolctl import threadpool_limits
        libraries()
        threadpool_limits(7)
        os.environ["OMP_NUM_THREADS"] = "7"
        return seen()

    @pipeline
    def shares():
        a = three.options(name="three")()
        b = share.options(name="share")(a)
        c = one.options(name="one")(b)
        d = sets_itself(c)
        e = share.options(name="again")(d)
        three.options(name="last")(e)
"""


def expected(threads: int) -> list[Any]:
    return [str(threads), [str(threads)] * 2, threads]


@pytest.fixture
def runs_with(
    settings: Settings,
    shared_redis_url: str,
    runs_by: Callable[[Settings], Runs],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., dict[str, Any]]:
    """Run a pipeline on a worker of its own with some slots, pool settings and variables; give runs
    and record."""

    def run(
        pipeline: Pipeline, slots: int = 1, variables: Mapping[str, str] | None = None, **pool: Any
    ) -> dict[str, Any]:
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            monkeypatch.delenv(name, raising=False)
        for name, value in (variables or {}).items():
            monkeypatch.setenv(name, value)
        chosen = settings.model_copy(update={"pools": {"cpu": PoolSettings(**pool)}})
        with local_worker(chosen, shared_redis_url, slots, ["cpu"], ready_within_s=30) as worker:
            runs = runs_by(worker.settings)
            record = runs.run(pipeline)
            values = {name: runs.value(record, name) for name in record.steps}
            worker.kill()
        assert record.state == "succeeded", record.steps
        return values

    return run


def test_each_step_has_its_number_of_threads_though_libraries_are_loaded_already(
    runs_with: Callable[..., dict[str, Any]], pipeline_from: PipelineFrom
) -> None:
    values = runs_with(pipeline_from(SEEN), slots=1)

    share = expected(available_cores())
    assert values["three"] == values["last"] == expected(3)
    assert values["share"] == values["again"] == share
    assert values["one"] == expected(1)
    assert values["sets_itself"] == ["7", ["7", str(available_cores())], 7]


def test_slots_share_the_cores(
    runs_with: Callable[..., dict[str, Any]], pipeline_from: PipelineFrom
) -> None:
    values = runs_with(pipeline_from(SEEN), slots=2 * available_cores())

    assert values["share"] == values["again"] == expected(1)
    assert values["three"] == expected(3)


def test_a_pool_may_say_how_many(
    runs_with: Callable[..., dict[str, Any]], pipeline_from: PipelineFrom
) -> None:
    values = runs_with(pipeline_from(SEEN), slots=4, threads=2)

    assert values["share"] == values["again"] == expected(2)
    assert values["three"] == expected(3)


def test_what_the_user_has_set_counts_up_to_the_cap(
    runs_with: Callable[..., dict[str, Any]], pipeline_from: PipelineFrom
) -> None:
    variables = {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    values = runs_with(pipeline_from(SEEN), slots=4, variables=variables)

    assert values["share"] == values["again"] == values["three"] == expected(2)
    assert values["one"] == expected(1)


def test_what_a_module_sets_when_it_is_imported_counts(
    runs_with: Callable[..., dict[str, Any]], pipeline_from: PipelineFrom
) -> None:
    pipeline = pipeline_from("""
        import os
        os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
        import numpy

        @step
        def seen(before=None):
            from threadpoolctl import threadpool_info
            return [os.environ["OMP_NUM_THREADS"], {each["num_threads"] for each in threadpool_info()} == {1}]

        @pipeline
        def imported():
            seen.options(name="second")(seen.options(name="first")())
    """)
    values = runs_with(pipeline, slots=1)

    assert values["first"] == values["second"] == ["1", True]


def test_a_step_without_such_libraries_loads_none_and_looks_for_none(
    runs_with: Callable[..., dict[str, Any]], pipeline_from: PipelineFrom
) -> None:
    pipeline = pipeline_from("""
        import sys

        @step
        def looks(before=None):
            return [name in sys.modules for name in ("numpy", "threadpoolctl", "torch")]

        @pipeline
        def plain():
            looks.options(name="second")(looks.options(name="first")())
    """)
    values = runs_with(pipeline)

    assert values["first"] == values["second"] == [False] * 3


def test_a_step_finds_the_same_variables_whatever_libraries_were_loaded_before(
    runs_with: Callable[..., dict[str, Any]], pipeline_from: PipelineFrom
) -> None:
    pipeline = pipeline_from("""
        import os

        @step
        def looks(before=None):
            return sorted(os.environ.items())

        @step
        def loads(before=None):
            found = sorted(os.environ.items())
            import sklearn.linear_model
            return found

        @pipeline
        def plain():
            first = looks.options(name="first")()
            loads_again = loads.options(name="loaded")(loads.options(name="loads")(first))
            looks.options(name="last")(loads_again)
    """)
    values = runs_with(pipeline, slots=1)

    assert values["first"] == values["loads"] == values["loaded"] == values["last"]


def test_what_threadpoolctl_sets_is_what_steps_find() -> None:
    code = (
        "import os; before = {**os.environ}; import threadpoolctl; print([*os.environ.items() -"
        " before.items()])"
    )
    name, value = OF_THREADPOOLCTL
    without = {key: text for key, text in os.environ.items() if key != name}

    assert (
        subprocess.check_output([sys.executable, "-c", code], text=True, env=without)
        == f"[{(name, value)}]\n"
    )


def test_commands_of_shell_steps_have_the_share_too(
    runs_with: Callable[..., dict[str, Any]], pipeline_from: PipelineFrom
) -> None:
    pipeline = pipeline_from("""
        plain = PipelineBuilder("plain")
        plain.add("share", run="echo x$OMP_NUM_THREADS")
        plain.add("three", run="echo x$OMP_NUM_THREADS", threads=3)
    """)
    values = runs_with(pipeline, slots=2 * available_cores())

    assert values == {"share": "x1", "three": "x3"}


def test_the_share_is_of_the_cores_that_may_be_used(
    runs_with: Callable[..., dict[str, Any]], pipeline_from: PipelineFrom
) -> None:
    before = os.sched_getaffinity(0)
    pipeline = pipeline_from("""
        plain = PipelineBuilder("plain")
        plain.add("share", run="echo x$OMP_NUM_THREADS")
    """)
    try:
        os.sched_setaffinity(0, [min(before)])
        values = runs_with(pipeline, slots=1)
    finally:
        os.sched_setaffinity(0, before)

    assert values == {"share": "x1"}


def test_a_step_has_its_number_of_threads_of_torch_and_the_next_one_the_share_again(
    runs_with: Callable[..., dict[str, Any]], pipeline_from: PipelineFrom
) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    pipeline = pipeline_from("""
        @step
        def share(before=None):
            import torch
            torch.ones(9, 9) @ torch.ones(9, 9)
            return torch.get_num_threads()

        @step(threads=3)
        def three(before=None):
            import torch
            return torch.get_num_threads()

        @step(threads=1)
        def one(before=None):
            import torch
            return torch.get_num_threads()

        @step
        def sets_itself(before=None):
            import torch
            torch.set_num_threads(7)
            return torch.get_num_threads()

        @pipeline
        def shares():
            a = one.options(name="at_import")()
            b = share.options(name="first")(a)
            c = one.options(name="loaded")(b)
            d = three(c)
            e = sets_itself(d)
            share.options(name="last")(e)
    """)

    values = runs_with(pipeline, slots=1)

    cores = available_cores()
    assert values == {
        "at_import": 1,
        "first": cores,
        "loaded": 1,
        "three": 3,
        "sets_itself": 7,
        "last": cores,
    }
