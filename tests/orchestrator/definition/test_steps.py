"""Steps as plain functions, and as calls that write a pipeline."""

from __future__ import annotations

import inspect
import sys
from typing import Any

import pytest

from orchestrator import PipelineBuilder, PipelineInvalid, pipeline, step
from orchestrator.definition.callables import function_name, resolve_function
from orchestrator.definition.options import OptionValues, StepOptions
from orchestrator.definition.pipeline import FunctionCall, OutputRef
from orchestrator.errors import FunctionNotFound, PipelineMisuse


@step
def load(path: str = "x") -> dict[str, int]:
    """Read the file."""
    return {"rows": len(path)}


@step(retries=2, pool="cpu")
def split(data: Any, share: float = 0.5) -> tuple[int, int]:
    return 1, 2


@step
def train(part: Any, *, epochs: int = 1) -> float:
    return 0.5


@pipeline
def other(n: int = 1) -> None:
    load()


def faults_of(function: Any, **params: Any) -> tuple[str, ...]:
    with pytest.raises(PipelineInvalid) as caught:
        pipeline(function).build(params)
    return caught.value.faults


def test_a_step_called_outside_a_pipeline_is_its_function() -> None:
    assert load("abc") == {"rows": 3}
    assert load.function("abc") == {"rows": 3}
    assert load.__doc__ == "Read the file."
    assert list(inspect.signature(split).parameters) == ["data", "share"]


def test_calls_inside_a_pipeline_become_steps_and_edges() -> None:
    @pipeline
    def churn() -> None:
        data = load("f.csv")
        first, second = split(data["rows"])
        train([first, {"deep": (second,)}])

    built = churn.build()

    assert list(built.steps) == ["load", "split", "train"]
    assert built.steps["split"].upstream == ("load",)
    assert built.steps["train"].upstream == ("split",)
    call = built.steps["train"].call
    assert isinstance(call, FunctionCall)
    assert call.args == ([OutputRef("split", (0,)), {"deep": (OutputRef("split", (1,)),)}],)
    assert built.steps["split"].options == StepOptions(retries=2, pool="cpu")


def test_repeated_calls_are_numbered_past_names_that_are_taken() -> None:
    @pipeline
    def churn() -> None:
        load.options(name="load-2")()
        for _ in range(3):
            load()

    assert list(churn.build().steps) == ["load-2", "load", "load-3", "load-4"]


def test_a_step_that_is_passed_on_without_being_called_is_a_fault() -> None:
    def churn() -> None:
        train(load)
        split({"deep": [load]})

    assert faults_of(churn) == (
        "argument 'part' of step 'train': step 'load' is given as a value; call it: load()",
        "argument 'data' of step 'split': step 'load' is given as a value; call it: load()",
    )


def test_an_explicit_name_used_twice_is_a_fault() -> None:
    def churn() -> None:
        load.options(name="a")()
        load.options(name="a")()
        load.options(name="a")()

    assert faults_of(churn) == ("step name 'a' is used twice. Names of steps are unique.",)


def test_options_and_after_give_copies() -> None:
    @pipeline
    def churn() -> None:
        a = load()
        train.after(a).options(name="train[svc-1]", retries=3)(1)
        train(2)
        load.options(name="last")().after(a, "train")

    steps = churn.build().steps

    assert steps["train[svc-1]"].upstream == ("load",)
    assert steps["train[svc-1]"].options.retries == 3
    assert steps["train"].upstream == ()
    assert steps["train"].options.retries == 0
    assert steps["last"].upstream == ("load", "train")


MISUSES: list[tuple[Any, str]] = [
    (lambda out: bool(out), "decide there"),
    (lambda out: out and 1, "decide there"),
    (lambda out: not out, "decide there"),
    (lambda out: 1 if out else 2, "decide there"),
    (lambda out: out + 1, "compute there"),
    (lambda out: 1 - out, "compute there"),
    (lambda out: -out, "compute there"),
    (lambda out: divmod(out, 2), "compute there"),
    (lambda out: sum([1, out]), "compute there"),
    (lambda out: out == 1, "compare there"),
    (lambda out: out < 1, "compare there"),
    (lambda out: max(1, out), "compare there"),
    (lambda out: 1 in out, "look there"),
    (lambda out: [it + 1 for it in out], "loop there"),
    (lambda out: list(out), "loop there"),
    (lambda out: print(*out), "loop there"),
    (lambda out: dict(zip(out, out, strict=True)), "loop there"),
    (lambda out: list(reversed(out)), "loop there"),
    (lambda out: {**out}, "Pass it whole to a step"),
    (lambda out: dict(**out), "Pass it whole to a step"),
    (lambda out: f"{out}", "make the text there"),
    (lambda out: "%s" % out, "make the text there"),  # noqa: UP031
    (lambda out: str(out), "make the text there"),
    (lambda out: " ".join([str(out)]), "make the text there"),
    (lambda out: open(out), "make the text there"),  # noqa: SIM115
    (lambda out: float(out), "do that there"),
    (lambda out: range(out), "do that there"),
    (lambda out: round(out), "do that there"),
    (lambda out: len(out), "take the length there"),
    (lambda out: out(), "call it there"),
    (lambda out: out[1:], "take the part there"),
    (lambda out: out.shape, "read 'shape' in a step"),
    (lambda out: out.items(), "read 'items' in a step"),
    (lambda out: out.__enter__(), "open it there"),
    (lambda out: out.__setitem__(0, 1), "from a step"),
]


@pytest.mark.parametrize(("misuse", "instead"), MISUSES)
def test_a_placeholder_used_as_a_value_names_its_step_and_says_what_to_do(
    misuse: Any, instead: str
) -> None:
    def churn() -> None:
        misuse(load())

    (fault,) = faults_of(churn)
    assert "placeholder for the output of step 'load'" in fault
    assert "known only at run time" in fault
    assert instead in fault


@pytest.mark.parametrize(
    "misuse",
    [
        lambda inner: inner(),
        lambda inner: inner(3),
        lambda inner: train(inner),
        lambda inner: train([inner]),
        lambda inner: train(inner()),
        lambda inner: step(inner)(),
    ],
)
def test_a_pipeline_inside_of_a_pipeline_is_refused_with_what_to_do(misuse: Any) -> None:
    def churn() -> None:
        load()
        misuse(other)

    (fault,) = faults_of(churn)
    assert "pipeline 'other'" in fault
    assert (
        "Pipelines do not nest: let both call the same steps, or a plain function that calls them."
        in fault
    )
    builder = PipelineBuilder("p")
    builder.add("a", other)
    with pytest.raises(PipelineInvalid) as caught:
        builder.build()
    assert all("Pipelines do not nest" in told for told in caught.value.faults)


def test_a_pipeline_that_is_called_says_how_it_is_run() -> None:
    with pytest.raises(PipelineMisuse, match="is not called but run: orchestrator run FILE:other"):
        other()


def test_unpacking_needs_the_length_in_the_annotation() -> None:
    def churn() -> None:
        _a, _b = train(1)

    assert "annotate the function with '-> tuple[A, B]'" in faults_of(churn)[0]


def test_an_index_beyond_the_annotated_tuple_is_refused() -> None:
    def churn() -> None:
        split(1)[2]

    assert "gives a tuple of 2" in faults_of(churn)[0]


def test_a_function_that_a_worker_cannot_reach_is_a_fault() -> None:
    builder = PipelineBuilder("p")
    builder.add("a", lambda: 1)

    def nested() -> None: ...

    builder.add("b", nested)
    builder.add("c", [].append)
    builder.add("d", 5)  # type: ignore[arg-type]
    with pytest.raises(PipelineInvalid) as caught:
        builder.build()

    a, b, c, d = caught.value.faults
    assert "a lambda cannot be reached from a worker; define it at module level" in a
    assert ", which is nested, cannot be reached from a worker" in b
    assert "step 'c'" in c
    assert "5 is not a function" in d


def test_a_name_leads_to_the_function_inside_a_step(tmp_path: Any, monkeypatch: Any) -> None:
    (tmp_path / "steps_by_name.py").write_text(
        "from orchestrator import step\n@step\ndef load(): return 7\n"
        "class A:\n    @staticmethod\n    def f(): return 8\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    function = resolve_function("steps_by_name:load")

    assert function() == 7
    assert inspect.isfunction(function)
    assert function_name(function) == "steps_by_name:load"
    assert resolve_function("steps_by_name:A.f")() == 8


@pytest.mark.parametrize(
    ("uses", "said"),
    [
        ("json:dmps", "module 'json' has no 'dmps'. Did you mean 'dumps'?"),
        ("jsn:dumps", "there is no module 'jsn'. Did you mean 'json'?"),
        ("json.decodr:x", "there is no module 'json.decodr'. Did you mean 'json.decoder'?"),
        ("json", "names no function"),
        ("json:", "names no function"),
        (".json:x", "is relative"),
        ("json:__doc__", "which cannot be called"),
    ],
)
def test_a_name_that_leads_nowhere_says_where_it_ends(uses: str, said: str) -> None:
    with pytest.raises(FunctionNotFound) as caught:
        resolve_function(uses)
    assert said in str(caught.value)


def test_a_module_that_fails_says_why(tmp_path: Any, monkeypatch: Any) -> None:
    (tmp_path / "fails_at_import.py").write_text("1 / 0\n")
    (tmp_path / "imports_nothing.py").write_text("import no_such_thing_here\n")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(FunctionNotFound, match="ZeroDivisionError: division by zero"):
        resolve_function("fails_at_import:f")
    with pytest.raises(
        FunctionNotFound, match="'imports_nothing' cannot be imported: No module named"
    ):
        resolve_function("imports_nothing:f")


def test_the_keywords_of_python_are_the_options() -> None:
    assert list(OptionValues.__annotations__) == list(StepOptions.model_fields)


def test_an_error_of_the_users_function_names_its_line() -> None:
    def churn() -> None:
        load(nmae=1)  # type: ignore[call-arg]
        raise ValueError("no data")

    raised, wrong = faults_of(churn)

    assert "raised ValueError: no data (test_steps.py:" in raised
    assert "'nmae'" in wrong


@pytest.mark.parametrize("uses", ["{module}:a", "{module}:f"])
def test_a_module_that_the_environment_lacks_is_told_so_instead_of_guessed(
    tmp_path: Any, monkeypatch: Any, uses: str
):
    # 'torch' resembles 'chunk', which Python 3.11 has, and a file of the user's.
    (tmp_path / "touched.py").touch()
    (tmp_path / "needs_torhc.py").write_text("import torhc\n")
    monkeypatch.syspath_prepend(tmp_path)

    for module in ("torhc", "torhc.nn", "needs_torhc"):
        with pytest.raises(FunctionNotFound) as caught:
            resolve_function(uses.format(module=module))
        assert f"This environment ({sys.executable}) lacks it: install it there" in str(
            caught.value
        )
        assert "'torhc'" in str(caught.value)
        assert "Did you mean" not in str(caught.value)


def test_a_slip_in_the_name_of_the_users_own_module_is_guessed(
    tmp_path: Any, monkeypatch: Any
) -> None:
    (tmp_path / "features.py").touch()
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(
        FunctionNotFound, match=r"there is no module 'featurs'\. Did you mean 'features'\?"
    ):
        resolve_function("featurs:build")
