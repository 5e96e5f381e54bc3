"""Steps that start processes of their own, as data loaders and parallel fits do."""

from __future__ import annotations

import pytest

from tests.support.fixtures import PipelineFrom
from tests.support.worker_runs import Runs

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
def test_a_step_may_have_processes_of_its_own(
    runs: Runs, pipeline_from: PipelineFrom, method: str
) -> None:
    record = runs.run(pipeline_from(PARALLEL, {"method": method}))

    assert record.steps["in_parallel"].attempts[0].error is None
    assert runs.value(record, "in_parallel") == [0, 1, 4, 9, 16]


def test_a_process_that_a_step_forks_ends_by_a_signal_that_comes_before_its_first_line(
    runs: Runs, pipeline_from: PipelineFrom
) -> None:
    """As multiprocessing's `terminate` sends one to a process that has not got its turn yet."""
    record = runs.run(
        pipeline_from("""
            import os, signal, time

            @step
            def ended(forks: int):
                signals = []
                for _ in range(forks):
                    pid = os.fork()
                    if not pid:
                        time.sleep(60)
                        os._exit(0)
                    os.kill(pid, signal.SIGTERM)
                    signals.append(os.WTERMSIG(os.waitpid(pid, 0)[1]))
                return signals.count(signal.SIGTERM), signal.SIGTERM in signal.pthread_sigmask(
                    signal.SIG_BLOCK, ()
                )

            @pipeline
            def forking():
                ended(200)
        """)
    )

    assert record.steps["ended"].attempts[0].error is None
    assert runs.value(record, "ended") == (200, False)


def test_a_parallel_fit_uses_several_processes(runs: Runs, pipeline_from: PipelineFrom) -> None:
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


def test_a_process_that_a_step_forks_and_lets_return_commits_nothing(
    runs: Runs, pipeline_from: PipelineFrom
) -> None:
    record = runs.run(
        pipeline_from("""
            import os

            @step
            def split():
                child = os.fork()
                if child:
                    os.waitpid(child, 0)
                return "parent" if child else "child"

            @step
            def after(value):
                return value

            @pipeline
            def forking():
                after(split())
        """)
    )

    assert runs.value(record, "after") == "parent"
    assert [len(step.attempts) for step in record.steps.values()] == [1, 1]
    assert not [
        event for event in runs.ledger.events(record.run_id) if event.kind == "commit.refused"
    ]
