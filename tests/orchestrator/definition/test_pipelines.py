"""Params of @pipeline functions."""

from __future__ import annotations

import datetime
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from orchestrator import Pipeline, PipelineInvalid, pipeline, step
from orchestrator.definition.loading import parse_params
from orchestrator.definition.pipeline import FunctionCall


@step
def train(kind: str, gate: float) -> float:
    return gate


class Colour(Enum):
    RED = "red"


@pipeline(name="churn-model", defaults={"retries": 2})
def churn(
    gate: float,
    kinds: list[str] = ["svc", "tree"],  # noqa: B006 - a default must not be shared between builds
    mode: Literal["fast", "full"] = "fast",
    share: Annotated[float, Field(gt=0, lt=1, description="Share for tests.")] = 0.2,
    note: str = "",
) -> None:
    """Train a model
    for churn.

    More text.
    """
    for kind in kinds:
        train.options(name=f"train[{kind}]")(kind, gate)
    kinds.append("changed")


def faults_of(**params: Any) -> tuple[str, ...]:
    with pytest.raises(PipelineInvalid) as caught:
        churn.build(params)
    return caught.value.faults


def test_params_reach_the_function_as_values_and_are_recorded() -> None:
    built = churn.build({"gate": 1, "kinds": ["a", "b", "c"]})

    assert isinstance(built, Pipeline)
    assert list(built.steps) == ["train[a]", "train[b]", "train[c]"]
    assert built.params["gate"] == 1.0
    assert built.params["mode"] == "fast"
    assert built.name == "churn-model"
    assert built.description == "Train a model for churn."
    assert built.steps["train[a]"].options.retries == 2
    assert built.import_path is not None


def test_a_default_is_not_shared_between_builds() -> None:
    assert churn.build({"gate": 1}).steps.keys() == churn.build({"gate": 1}).steps.keys()


def test_params_tell_what_help_needs() -> None:
    params = churn.params

    assert params["gate"].is_required
    assert params["gate"].type_name == "float"
    assert params["share"].description == "Share for tests."
    assert params["share"].type_name == "float"
    assert params["mode"].type_name == "Literal['fast', 'full']"


def test_all_wrong_params_are_told_at_once() -> None:
    faults = faults_of(gat=1, mode="ful", share=2, kinds="x")

    assert faults[0] == "there is no param 'gat'. Did you mean 'gate'?"
    assert faults[1] == "param 'gate' is missing; it has no default. Give a float."
    assert "param 'kinds' is 'x', which is not a list[str]" in faults[2]
    assert "param 'mode' is 'ful'" in faults[3]
    assert "param 'share' is 2, which is not a float: Input should be less than 1" in faults[4]


@pytest.mark.parametrize("value", ["abc", "0.8", True, None])
def test_a_plain_type_is_taken_strictly(value: Any) -> None:
    assert faults_of(gate=value) == (f"param 'gate' is {value!r}, which is not a float.",)


def test_a_param_of_another_type_than_json_has_is_itself_in_the_function_and_in_the_pipeline() -> (
    None
):
    seen: list[Any] = []

    @pipeline
    def daily(day: datetime.date, where: Path, colour: Colour = Colour.RED) -> None:
        seen.extend([day, where, colour])
        train.options(name="used")(day.isoformat(), str(where))

    built = daily.build({"day": "2026-11-23", "where": "/data"})

    assert seen == [datetime.date(2026, 11, 23), Path("/data"), Colour.RED]
    assert built.params == {
        "day": datetime.date(2026, 11, 23),
        "where": Path("/data"),
        "colour": Colour.RED,
    }
    assert built.steps["used"].call == FunctionCall(
        f"{__name__}:train", ("2026-11-23", "/data"), {}
    )


def test_a_param_that_json_cannot_tell_at_all_is_a_fault() -> None:
    @pipeline
    def odd(thing: object) -> None:
        pass

    with pytest.raises(
        PipelineInvalid, match=r"param 'thing' is a builtins.object, which has no JSON form"
    ):
        odd.build({"thing": object()})


def test_parameters_of_any_number_are_faults() -> None:
    @pipeline
    def p(*args: int, **kwargs: int) -> None: ...

    with pytest.raises(PipelineInvalid) as caught:
        p.build()
    assert len(caught.value.faults) == 2


def test_text_of_the_command_line_becomes_typed_values() -> None:
    values = parse_params(["gate=1e-3", "kinds=[a, b]", "mode=full", "note=007=x"], churn)

    assert values == {"gate": 0.001, "kinds": ["a", "b"], "mode": "full", "note": "007=x"}


def test_wrong_text_of_the_command_line_is_told_at_once() -> None:
    with pytest.raises(PipelineInvalid) as caught:
        parse_params(["gate=abc", "nope", "kind=[]", "share=[", "note=a", "note=b"], churn)

    faults = caught.value.faults
    assert faults[0] == "param 'gate' is 'abc', which is not a float."
    assert faults[1] == "'nope' gives no param a value. Write 'name=value'."
    assert faults[2] == "there is no param 'kind'. Did you mean 'kinds'?"
    assert faults[3].startswith("param 'share' is '['")
    assert faults[4] == "param 'note' is given twice."


def test_a_function_that_exits_is_a_fault() -> None:
    @pipeline
    def leaving() -> None:
        raise SystemExit(3)

    with pytest.raises(PipelineInvalid, match="raised SystemExit: 3"):
        leaving.build()


def test_params_may_be_keywords() -> None:
    assert churn.build(gate=0.5, kinds=["svc"]) == churn.build({"gate": 0.5, "kinds": ["svc"]})
    with pytest.raises(PipelineInvalid, match="there is no param 'gates'"):
        churn.build({"gate": 0.5}, gates=1)
