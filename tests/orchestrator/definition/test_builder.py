"""Pipelines written by a program, and every fault that one can have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import PipelineBuilder, PipelineInvalid, step
from orchestrator.definition.options import StepOptions
from orchestrator.definition.params import Param
from orchestrator.definition.pipeline import (
    FunctionCall,
    OutputRef,
    ParamRef,
    ShellCall,
    Template,
    TriggerRule,
)


def load(path: str, /, rows: int = 1, *, fresh: bool = False) -> int:
    return rows


@step(retries=1, retry_on=(ValueError,))
def anything(*args: Any, **kwargs: Any) -> tuple[int, int]:
    return 1, 2


class OwnError(Exception):
    """An exception outside the built-ins."""


def faults_of(builder: PipelineBuilder, **more: Any) -> list[str]:
    with pytest.raises(PipelineInvalid) as caught:
        builder.build(**more)
    return list(caught.value.faults)


def test_no_step_is_fine_and_so_is_one() -> None:
    assert PipelineBuilder("p").build().steps == {}
    builder = PipelineBuilder("p")
    builder.add("a", load, args=["x"])
    assert list(builder.build().steps) == ["a"]


def test_steps_are_written_in_a_loop() -> None:
    builder = PipelineBuilder("p", "what it does", {"gate": 0.5})
    parts = [builder.add(f"part-{i}", anything, args=(i,), pool="cpu") for i in range(3)]
    first, _ = builder.add(
        "join", anything, kwargs={"parts": parts, "gate": ParamRef("gate")}, needs="shell"
    )
    builder.add("last", "time:sleep", args=[first], needs=[parts[0], "join"])
    builder.add("shell", run="echo ${{ params.gate }}")

    built = builder.build()

    assert built.steps["part-1"].options == StepOptions(
        retries=1, retry_on=("ValueError",), pool="cpu"
    )
    assert built.steps["part-1"].options is built.steps["part-2"].options
    assert built.steps["join"].upstream == ("part-0", "part-1", "part-2", "shell")
    assert built.steps["last"].call == FunctionCall("time:sleep", (OutputRef("join", (0,)),), {})
    assert built.steps["last"].upstream == ("join", "part-0")
    assert built.steps["shell"].call == ShellCall(Template(("echo ", ParamRef("gate"))))
    assert built.params == {"gate": 0.5}


def test_a_pipeline_is_not_changed_by_what_is_done_to_its_arguments_later() -> None:
    builder, items = PipelineBuilder("p"), [1]
    builder.add("a", anything, args=(items,))
    built = builder.build()
    items.append(2)
    call = built.steps["a"].call
    assert isinstance(call, FunctionCall)
    assert call.args == ([1],)


def test_a_loop_is_attempt_in_full() -> None:
    builder = PipelineBuilder("p")
    builder.add("a", anything, needs="c")
    builder.add("b", anything, needs="a")
    builder.add("c", anything, needs=["b"])
    builder.add("own", anything, needs="own")

    assert faults_of(builder) == [
        "steps form a loop: a -> b -> c -> a. Remove one of these inputs.",
        "steps form a loop: own -> own. Remove one of these inputs.",
    ]


def test_all_faults_are_told_at_once() -> None:
    builder = PipelineBuilder("bad name!", params={"gate": 1, "2x": 1})
    builder.add("prepare", load, args=["x"])
    builder.add("a/b", anything)
    builder.add("x" * 201, anything)
    builder.add("prepare", load, args=["x"])
    builder.add(
        "train",
        anything,
        args=(OutputRef("prepar"), ParamRef("gat"), ParamRef("gate", ("k",))),
        needs="prepre",
    )
    builder.add("both", load, run="echo")
    builder.add("neither")
    builder.add("gone", "json:dmps")
    builder.add(
        "opts", anything, retires=3, retries=-1, timeout="x", trigger="all_sucess", pool="gpuu"
    )
    builder.add(
        "thing", anything, args=(1, {"m": [object()]}), kwargs={"path": Path("x"), "own": {1}}
    )
    builder.add("exceptions", anything, retry_on=("ValueEror", "json:Nope", "json.dumps", "a b"))

    faults = faults_of(builder, pools=["cpu", "gpu"], params={"gate": "x"})

    for said in (
        (
            "pipeline name 'bad name!' is not allowed: a name holds ASCII letters, digits and . - _"
            " only"
        ),
        "param name '2x' is not allowed",
        "param 'gate' is 'x', which is not an int.",
        "step name 'a/b' is not allowed",
        "is 201 characters long; at most 200",
        "step name 'prepare' is used twice",
        "step 'train' reads 'prepar', which no step gives. Did you mean 'prepare'?",
        "step 'train' needs 'prepre', which no step gives. Did you mean 'prepare'?",
        "step 'train' reads param 'gat', which is not declared. Did you mean 'gate'?",
        "step 'both' has both a function (uses) and a command (run)",
        "step 'neither' has neither",
        (
            "step 'gone': 'json:dmps' cannot be used: module 'json' has no 'dmps'. Did you mean"
            " 'dumps'?"
        ),
        "step 'opts' has an unknown option 'retires'. Did you mean 'retries'?",
        "step 'opts': option 'retries' is -1, but it must be greater than or equal to 0.",
        "step 'opts': option 'timeout' is 'x', but it must be a valid number.",
        "step 'opts': option 'trigger' is 'all_sucess', but it must be 'all_success'",
        "Did you mean 'all_success'?",
        "step 'opts': there is no pool 'gpuu'; there are 'cpu', 'gpu'. Did you mean 'gpu'?",
        (
            "argument at position 2 of step 'thing' holds at ['m'][0] a builtins.object, which has"
            " no JSON form. Return it from a step instead."
        ),
        (
            f"argument 'path' of step 'thing' is a {type(Path()).__module__}.PosixPath, which has"
            " no JSON form. Pass str(path)."
        ),
        "argument 'own' of step 'thing' is a builtins.set",
        "option 'retry_on'[3] is 'a b', which names no exception class",
    ):
        assert any(said in fault for fault in faults), (said, faults)


def test_arguments_are_checked_by_name() -> None:
    builder = PipelineBuilder("p")
    builder.add("a", load, kwargs={"row": 2})
    builder.add("b", load, args=("x", 2, 3), kwargs={"rows": 3})
    builder.add("c", load, kwargs={"path": "x"})
    builder.add("d", load, args=("x",), kwargs={"fresh": True})
    builder.add("e", "builtins:max", args=(1, 2, 3))  # tells no signature
    uses = f"{__name__}:load"

    assert faults_of(builder) == [
        f"step 'a' gives argument 'row', which {uses} does not take. Did you mean 'rows'?",
        f"step 'a' lacks argument 'path' of {uses}.",
        f"step 'b' gives 3 positional arguments, but {uses} takes 2.",
        f"step 'b' gives argument 'rows' of {uses} both by position and by name.",
        f"step 'c' gives argument 'path' of {uses} by name; give it by position.",
    ]


def test_exceptions_are_known_by_their_true_names() -> None:
    builder = PipelineBuilder("p")
    builder.add(
        "a",
        anything,
        retry_on=["json.JSONDecodeError", "IOError", OwnError],
        never_retry_on=KeyError,
    )

    options = builder.build().steps["a"].options

    assert options.retry_on == ("json.decoder:JSONDecodeError", "OSError", f"{__name__}:OwnError")
    assert options.never_retry_on == ("KeyError",)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ValueEror", "'ValueEror' is not a built-in exception. Did you mean 'ValueError'?"),
        (
            "json:JSONDecodeEror",
            "module 'json' has no 'JSONDecodeEror'. Did you mean 'JSONDecodeError'?",
        ),
        ("nope_at_all.Error", "there is no module 'nope_at_all'."),
        ("json:dumps", "'json:dumps' is not an exception class."),
        ("print", "'print' is not an exception class."),
    ],
)
def test_an_unknown_exception_is_a_fault(name: str, said: str) -> None:
    builder = PipelineBuilder("p")
    builder.add("a", anything, never_retry_on=(name,))
    (fault,) = faults_of(builder)
    assert fault.startswith(f"step 'a': option 'never_retry_on': {said}")


def test_defaults_stand_below_the_options_of_a_step() -> None:
    builder = PipelineBuilder(
        "p", defaults={"retries": 5, "pool": "cpu", "trigger": TriggerRule.ALL_DONE}
    )
    builder.add("a", load, args=["x"], retries=0)
    builder.add("b", anything)
    steps = builder.build().steps
    assert steps["a"].options == StepOptions(retries=0, pool="cpu", trigger="all_done")
    assert steps["b"].options.retries == 1


def test_equal_options_of_other_types_are_not_mixed_up() -> None:
    builder = PipelineBuilder("p")
    builder.add("a", anything, retries=1)
    builder.add("b", anything, retries=True)
    assert "'retries' is True, but it must be a valid integer" in faults_of(builder)[0]


def test_a_placeholder_of_another_pipeline_is_a_fault() -> None:
    foreign = PipelineBuilder("other").add("a", anything)
    builder = PipelineBuilder("p")
    builder.add("b", anything, args=(foreign,), needs=(foreign,))
    assert (
        len([fault for fault in faults_of(builder) if "belongs to another pipeline" in fault]) == 2
    )


def test_an_argument_that_contains_itself_is_a_fault() -> None:
    items: list[Any] = []
    items.append(items)
    builder = PipelineBuilder("p")
    builder.add("a", anything, args=(items,))
    assert "contains itself" in faults_of(builder)[0]


def test_declared_params_are_checked() -> None:
    builder = PipelineBuilder(
        "p", params={"mode": Param("mode", str, choices=("fast", "full")), "n": 1}
    )
    assert builder.build({"mode": "fast"}).params == {"mode": "fast", "n": 1}
    assert faults_of(builder, params={"mode": "ful", "n": 0.5}) == [
        "param 'mode' is 'ful', which is none of 'fast', 'full'. Did you mean 'full'?",
        "param 'n' is 0.5, which is not an int.",
    ]


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20))))
def test_the_edges_are_those_that_were_written(edges: list[tuple[int, int]]) -> None:
    builder = PipelineBuilder("p")
    forward = [(str(min(e)), str(max(e))) for e in edges if e[0] != e[1]]
    for i in range(21):
        ups = [up for up, down in forward if down == str(i)]
        builder.add(str(i), anything, args=[OutputRef(up) for up in ups[::2]], needs=ups[1::2])

    steps = builder.build().steps

    assert {(up, name) for name, made in steps.items() for up in made.upstream} == set(forward)


def test_twice_as_many_steps_are_built_in_twice_the_time(cpu_growth) -> None:
    def build(count: int) -> None:
        builder = PipelineBuilder("big")
        made = [builder.add("s-0", anything)]
        for i in range(1, count):
            made.append(
                builder.add(
                    f"s-{i}", anything, args=([made[i // 2], i],), kwargs={"k": i}, retries=2
                )
            )
        assert len(builder.build().steps) == count

    assert cpu_growth(lambda: build(10_000), lambda: build(20_000)) <= 2.5


@pytest.mark.parametrize("name", ["-x", "--reason", "-1", "-[a]", "--"])
def test_a_step_whose_name_a_command_would_take_for_an_option_is_a_fault(name: str) -> None:
    builder = PipelineBuilder("p")
    builder.add(name, load, args=["x"])

    (fault,) = faults_of(builder)
    assert fault.startswith(f"step name {name!r} is not allowed")
    assert "no - at its start" in fault


def test_a_step_that_waits_for_a_failure_of_nothing_is_a_fault() -> None:
    builder = PipelineBuilder("p")
    builder.add("alert", "builtins:max", args=(1,), trigger="one_failed")

    assert faults_of(builder) == [
        "step 'alert' has trigger 'one_failed' but waits for no step, so it could never start."
    ]
