"""What a resume refuses, what happens when many ask for one, and what large runs cost."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from orchestrator.attempt_id import AttemptId
from orchestrator.definition.pipeline import (
    ShellCall,
    Step,
)
from orchestrator.errors import ResumeRefused
from orchestrator.ledger.script import FUNCTION
from orchestrator.ledger.states import StepState
from orchestrator.ledger.values import OwnedAttempt
from orchestrator.plan.compile import compile_pipeline
from orchestrator.plan.plan import Plan
from orchestrator.runs.resumption import Resumption, plan_resume, resume, wait_for_stopping
from orchestrator.runs.stored import StoredDefinition, StoredRun, read_run
from orchestrator.runs.submission import submit
from orchestrator.settings.model import Settings
from orchestrator.settings.pools import PoolSettings
from tests.support.resumptions import end
from tests.support.runs import (
    events_of,
    graph,
    states_of,
)


@pytest.mark.parametrize(
    ("ending", "from_steps", "told"),
    [
        ("a", (), "is running: only a run that has ended can be resumed"),
        (
            "a b c d",
            (),
            "has succeeded, and stays as it is. A new run can take over what it has computed",
        ),
        ("a b c d", ("b", "x y"), " --from b --from 'x y'"),
        ("a b c! b", ("bb",), "has no step 'bb'. Did you mean 'b'?"),
    ],
)
def test_a_resume_that_makes_no_sense_is_refused(
    submitted, planned, ending, from_steps, told
) -> None:
    plan = graph({"a": "", "b": "a", "c": "a", "d": "c"}).plan()
    run_id = submitted(plan, ending if "!" not in ending else "a b c!")

    with pytest.raises(ResumeRefused) as refused:
        planned(run_id, plan, *from_steps)

    assert told in str(refused.value)


def test_a_resume_from_a_step_that_was_taken_out_is_refused(submitted, planned) -> None:
    run_id = submitted(graph({"a": "", "b": "a"}).plan(), "a!")

    with pytest.raises(
        ResumeRefused, match=f"^step 'b' of run {run_id} is not in the pipeline any more[.]$"
    ):
        planned(run_id, graph({"a": ""}).plan(), "b")


def test_of_many_resumes_at_once_one_goes_through(ledger, app, submitted, planned) -> None:
    plan = graph({f"s{i}": "" for i in range(300)}).plan()
    run_id = submitted(plan, "s0!")
    ledger.cancel(run_id, "")
    other = compile_pipeline(
        replace(plan.pipeline, steps={**plan.pipeline.steps, "n": Step("n", ShellCall("n"))})
    )
    resumptions = [planned(run_id, which) for which in (plan, other) * 3]

    def attempt(resumption: Resumption) -> int:
        try:
            resume(ledger, app, resumption)
        except ResumeRefused:
            return 0
        return 1

    with ThreadPoolExecutor(6) as threads:
        assert sum(threads.map(attempt, resumptions)) == 1
    assert set(states_of(ledger, run_id).values()) == {"queued"}
    assert [name for name, *_ in events_of(ledger, run_id)].count("run.resumed") == 1


def test_a_resume_that_was_planned_before_another_one_ended_runs_nothing_twice(
    ledger, app, submitted, planned
) -> None:
    plan = graph({"a": "", "b": ""}).plan()
    run_id = submitted(plan, "a! b!")
    first, second = planned(run_id, plan), planned(run_id, plan)
    resume(ledger, app, first)
    end(ledger, run_id, "a b!")

    with pytest.raises(ResumeRefused, match="somebody else has just resumed run"):
        resume(ledger, app, second)

    assert states_of(ledger, run_id) == {"a": "succeeded", "b": "failed"}


def test_nothing_runs_anew_while_a_cancelled_attempt_is_still_being_stopped(
    ledger, app, chosen, submitted, planned
) -> None:
    plan = graph({"a": ""}).plan()
    run_id = submitted(plan, "")
    ledger.claim(AttemptId(run_id, "a", 1), "i.7.x", "w", lease_s=600)
    ledger.cancel(run_id, "")
    quick = chosen.model_copy(update={"lease_s": 0.1, "timeout_grace_s": 0.0})

    resumption = planned(run_id, plan)
    with pytest.raises(ResumeRefused, match="1 attempt is still being stopped"):
        resume(ledger, app, resumption)
    with pytest.raises(ResumeRefused, match="these are still being stopped: a on w"):
        wait_for_stopping(ledger, quick, run_id)
    ledger.report_stopped(
        OwnedAttempt(AttemptId(run_id, "a", 1), "w i.7."), {"how": "it ended when asked"}
    )
    wait_for_stopping(ledger, chosen, run_id)
    resume(ledger, app, resumption)

    assert states_of(ledger, run_id) == {"a": "queued"}


def test_an_attempt_whose_worker_is_gone_holds_a_resume_up_only_for_its_lease(
    ledger, chosen, submitted
) -> None:
    run_id = submitted(graph({"a": ""}).plan(), "")
    ledger.claim(AttemptId(run_id, "a", 1), "i.7.x", "w", lease_s=0.3)
    ledger.cancel(run_id, "")

    wait_for_stopping(ledger, chosen, run_id)

    assert events_of(ledger, run_id)[-1] == ("attempt.stopped", "a", 1)


def run_with_one_failure(ledger, app, chosen, count: int) -> tuple[str, str, Plan]:
    """Return an ended run of so many steps, the step in its middle that has failed, and the
    plan."""
    names = [f"s{i}" for i in range(count)]
    layers = {name: [names[i - 100 - i % 3]] if i >= 103 else [] for i, name in enumerate(names)}
    plan = graph(layers).plan()
    run_id = submit(plan, ledger, app, chosen)
    failing = names[count // 2]
    while queued := [
        step for step, (state, _) in ledger.states(run_id).items() if state is StepState.QUEUED
    ]:
        with ledger.client.pipeline(transaction=False) as pipe:
            for step in queued:
                say(ledger, pipe, run_id, "claim", step, 1, step, "w", 60_000_000)
            for step, (_, token, *_) in zip(queued, pipe.execute(), strict=True):
                outcome = "failed" if step == failing else "succeeded"
                say(
                    ledger,
                    pipe,
                    run_id,
                    "commit",
                    step,
                    1,
                    token,
                    "w",
                    outcome,
                    "{}",
                    "",
                    "",
                    0,
                    "",
                )
            pipe.execute()
    while ledger.go_on(run_id).has_more:
        pass
    states = [state for state, _ in ledger.states(run_id).values()]
    assert states.count(StepState.FAILED) == 1
    assert states.count(StepState.SUCCEEDED) > 0.9 * count
    return run_id, failing, plan


@pytest.mark.parametrize("is_staged_anew", [False, True])
def test_a_resume_of_twice_as_many_steps_takes_twice_the_time(
    ledger, app, chosen, messages_in, cpu_growth, is_staged_anew
) -> None:
    numbers = itertools.count()

    def renamed() -> Settings:
        """Return settings with other queues each time, so that every step is staged anew."""
        end = next(numbers)
        pools = {
            name: PoolSettings(queue=f"{pool.queue}.{end}") for name, pool in chosen.pools.items()
        }
        return chosen.model_copy(update={"pools": pools})

    runs = [run_with_one_failure(ledger, app, chosen, count) for count in (5_000, 10_000)]

    def plan_and_resume(run_id: str, failing: str, plan: Plan) -> None:
        settings = renamed() if is_staged_anew else chosen
        resumption = plan_resume(read_run(ledger, run_id), plan, settings)
        resume(ledger, app, resumption)
        assert (len(resumption.staged) > 0) is is_staged_anew
        assert resumption.resets[0][0] == failing
        ledger.cancel(run_id, "")

    assert cpu_growth(lambda: plan_and_resume(*runs[0]), lambda: plan_and_resume(*runs[1])) <= 2.5


def say(ledger, pipe, run_id: str, *words: object) -> None:
    """Put one operation of the ledger among many that are sent together."""
    pipe.fcall(FUNCTION, 1, ledger.key(run_id, "run"), *words)


def test_reading_twice_as_many_steps_back_takes_twice_the_time(
    ledger, app, chosen, cpu_growth
) -> None:
    def recorded(count: int) -> StoredRun:
        plan = graph({f"s{i}": [f"s{i - 1}"] if i % 50 else [] for i in range(count)}).plan()
        run_id = submit(plan, ledger, app, chosen)
        ledger.cancel(run_id, "")
        return read_run(ledger, run_id)

    def read_back(run: StoredRun) -> None:
        built = StoredDefinition(run).build(pools=chosen.pools)
        assert built.steps.keys() == run.steps.keys()

    once, twice = recorded(5_000), recorded(10_000)

    assert cpu_growth(lambda: read_back(once), lambda: read_back(twice)) <= 2.5
