"""`run_local`: rules, retries and data are those of a run on workers."""

from __future__ import annotations

import datetime as dt
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import orchestrator
from orchestrator import Pipeline, PipelineBuilder, PipelineInvalid, RunFailed, context
from orchestrator.definition.options import StepOptions
from orchestrator.definition.pipeline import FunctionCall, Step, TriggerRule
from orchestrator.errors import RunNotFound
from orchestrator.ledger.states import StepState
from tests.support.rules import final_states
from tests.support.runs import Graph, random_graph

tries: dict[str, int] = {}


def fail_if(name: str, fails: bool) -> str:
    if fails:
        raise ValueError(f"{name} fails")
    return name


def flaky(times: int) -> tuple[int, dict[int, str]]:
    tries["flaky"] = tries.get("flaky", 0) + 1
    if tries["flaky"] <= times:
        raise OSError(f"try {tries['flaky']}")
    return tries["flaky"], {1: context.step}


def one(value: Any) -> Any:
    return value


def with_failing(graph: Graph, failing: set[str]) -> Pipeline:
    steps = {
        name: Step(
            name,
            FunctionCall(f"{__name__}:fail_if", (name, name in failing)),
            upstream,
            StepOptions(trigger=TriggerRule(graph.rules[name]).value),
        )
        for name, upstream in graph.upstream.items()
    }
    return Pipeline("p", steps)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=150)
def test_every_step_ends_as_the_rules_say(seed: int) -> None:
    rng = Random(seed)
    graph = random_graph(rng, 9, other_rules=0.4)
    failing = {name for name in graph.upstream if rng.random() < 0.3}

    run = with_failing(graph, failing).run_local()

    expected = final_states(graph.upstream, graph.rules, failing)
    assert {name: step.state.value for name, step in run.steps.items()} == expected
    has_failed = StepState.FAILED in expected.values()
    assert (run.state == "failed") is has_failed


def test_retries_do_not_wait_and_are_in_the_record() -> None:
    tries.clear()
    builder = PipelineBuilder("p")
    builder.add("work", flaky, args=[2], retries=2, retry_delay=3600)

    run = builder.run_local()

    assert run.output("work") == (3, {1: "work"})
    assert [it.outcome for it in run.steps["work"].attempts] == ["failed", "failed", "succeeded"]
    assert run.steps["work"].attempts[0].error.line == "OSError: try 1"


def test_a_step_that_fails_for_good_is_told_with_its_error() -> None:
    tries.clear()
    builder = PipelineBuilder("p")
    builder.add("below", one, args=[builder.add("work", flaky, args=[5], retries=1)])

    run = builder.run_local()

    assert (run.state, run.steps["below"].state) == ("failed", "upstream_failed")
    assert run.steps["below"].because == "work"
    with pytest.raises(RunFailed, match="step work is failed: OSError: try 2"):
        run.output("work")
    with pytest.raises(RunNotFound, match=r"no step 'wrok'\. Did you mean 'work'"):
        run.output("wrok")


MADE: dict[str, Any] = {
    "tuple": (1, [2]),
    "keys": {1: "a", (2,): None},
    "set": {3},
    "bytes": b"x",
    "date": dt.date(2026, 1, 2),
}


def made(name: str) -> Any:
    return MADE[name]


@pytest.mark.parametrize("name", MADE)
def test_values_arrive_as_they_do_on_a_worker(name: str) -> None:
    builder = PipelineBuilder("p")
    builder.add("second", one, args=[builder.add("first", made, args=[name])])

    run = builder.run_local()

    assert run.output("second") == MADE[name]
    assert type(run.output("second")) is type(MADE[name])
    assert run.output("second") is not MADE[name] or name in ("bytes", "date")


def test_params_are_checked() -> None:
    builder = PipelineBuilder("p", params={"n": 1})
    builder.add("shell", run="true")

    with pytest.raises(PipelineInvalid, match="there is no param 'm'"):
        builder.run_local(m=2)


def test_commands_run_with_the_values_that_they_read(capsys: pytest.CaptureFixture[str]) -> None:
    builder = PipelineBuilder("p", params={"word": "of param"})
    builder.add("made", "builtins:dict", kwargs={"x": [1, 2]})
    builder.add("say", run="echo ${{ params.word }}; cat ${{ file(steps.made.output) }}")
    builder.add("parsed", run="""echo '{"a": "'${{ steps.made.output.x[1] }}'"}'""")
    builder.add("bad", run="echo to stderr >&2; exit 3", retries=1)

    run = builder.run_local(word="given")

    assert run.output("say") == 'given\n{"x": [1, 2]}'
    assert run.output("parsed") == {"a": "2"}
    assert [str(it.error and it.error.line) for it in run.steps["bad"].attempts] == [
        "CommandFailed: the command ended with exit code 3: echo to stderr >&2; exit 3"
    ] * 2
    assert capsys.readouterr().err == "to stderr\n" * 2


def test_nothing_of_redis_is_loaded_before_it_is_asked_for() -> None:
    # What `import orchestrator` loads is held in tests/test_house.py; here that all is there.
    assert {name for name in orchestrator.__all__ if getattr(orchestrator, name) is None} == set()
    with pytest.raises(AttributeError, match="no attribute 'sumbit'"):
        _ = orchestrator.sumbit
