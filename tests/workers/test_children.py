"""Steps that start processes of their own, as data loaders and parallel fits do."""

from __future__ import annotations

import pytest

PARALLEL = """
    import concurrent.futures, multiprocessing, os

    def square(number):
        return number * number

    @step
    def in_parallel(method):
        context = multiprocessing.get_context(method)
        with context.Pool(2) as pool:
            pooled = pool.map(square, range(3))
        with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as executor:
            return pooled + list(executor.map(square, range(3, 5)))

    @pipeline
    def parallel(method: str):
        in_parallel(method)
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_step_may_have_processes_of_its_own(runs, pipeline_from, method):
    record = runs.run(pipeline_from(PARALLEL, {"method": method}))

    assert record.steps["in_parallel"].attempts[0].error is None
    assert runs.value(record, "in_parallel") == [0, 1, 4, 9, 16]


def test_a_parallel_fit_uses_several_processes(runs, pipeline_from):
    pytest.importorskip("joblib")
    record = runs.run(
        pipeline_from("""
            import os

            @step
            def fit():
                from joblib import Parallel, delayed

                return os.getpid() in Parallel(n_jobs=2)(delayed(os.getpid)() for _ in range(4))

            @pipeline
            def fitting():
                fit()
        """)
    )

    assert record.steps["fit"].attempts[0].error is None
    assert runs.value(record, "fit") is False
