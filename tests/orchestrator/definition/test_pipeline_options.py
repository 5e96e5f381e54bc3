"""Options of a whole pipeline: deadline and alerts, the same in all three forms."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator import Pipeline, PipelineBuilder, PipelineInvalid, pipeline
from orchestrator.definition.document import PipelineFile
from orchestrator.definition.options import PipelineOptions
from orchestrator.definition.yaml_text import read_json, read_yaml

SECRET = "json://me:secret@example.com/hook"


def decorated(options: dict[str, Any]) -> Pipeline:
    @pipeline(**options)
    def told() -> None: ...

    return told.build()


def built(options: dict[str, Any]) -> Pipeline:
    return PipelineBuilder("told", **options).build()


def in_yaml(options: dict[str, Any]) -> Pipeline:
    value, faults = read_yaml(json.dumps({"steps": {}, **options}), "file")
    return PipelineFile(value, "told", faults).build()


def in_json(options: dict[str, Any]) -> Pipeline:
    value, faults = read_json(json.dumps({"steps": {}, **options}), "file")
    return PipelineFile(value, "told", faults).build()


all_forms = pytest.mark.parametrize("form", [decorated, built, in_yaml, in_json])


@all_forms
def test_a_pipeline_may_have_a_deadline_and_alerts(
    form: Callable[[dict[str, Any]], Pipeline],
) -> None:
    made = form({"deadline": 90, "alerts": ["slack://$TOKEN/#ml", "mailto://example.com"]})

    assert made.deadline_s == 90
    assert made.alerts == ("slack://$TOKEN/#ml", "mailto://example.com")


@all_forms
def test_without_them_there_is_no_deadline_and_nobody_more_to_tell(
    form: Callable[[dict[str, Any]], Pipeline],
) -> None:
    made = form({})

    assert made.deadline_s is None
    assert made.alerts == ()


@all_forms
@pytest.mark.parametrize(
    ("options", "faults"),
    [
        ({"deadline": 0}, ["'deadline' is 0, but it must be greater than 0."]),
        ({"deadline": True}, ["'deadline' is True, but it must be a valid number."]),
        ({"deadline": "1 h"}, ["'deadline' is '1 h', but it must be a valid number."]),
        ({"alerts": SECRET}, ["'alerts' must be a list of Apprise URLs."]),
        (
            {"alerts": ["a://b", 7]},
            ["'alerts'[1] must be an Apprise URL, as in 'slack://$TOKEN/#ml'."],
        ),
        ({"alerts": [" "]}, ["'alerts'[0] must be an Apprise URL, as in 'slack://$TOKEN/#ml'."]),
        (
            {"deadline": -1, "alerts": ["", SECRET, None]},
            [
                "'deadline' is -1, but it must be greater than 0.",
                "'alerts'[0] must be an Apprise URL, as in 'slack://$TOKEN/#ml'.",
                "'alerts'[2] must be an Apprise URL, as in 'slack://$TOKEN/#ml'.",
            ],
        ),
    ],
)
def test_wrong_values_are_faults_and_show_no_secret(
    form: Callable[[dict[str, Any]], Pipeline], options: dict[str, Any], faults: list[str]
) -> None:
    with pytest.raises(PipelineInvalid) as caught:
        form(options)

    owner = "the pipeline: option" if form in (decorated, built) else "the file: key"
    assert list(caught.value.faults) == [f"{owner} {fault}" for fault in faults]
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("endless", [float("inf"), float("nan")])
def test_a_deadline_without_end_is_none(endless: float) -> None:
    with pytest.raises(PipelineInvalid, match="'deadline' is"):
        built({"deadline": endless})


def test_they_are_told_together_with_all_other_faults() -> None:
    builder = PipelineBuilder("told", params={"size": 1}, deadline=-1, alerts=[""])
    builder.add("lost", run="true", needs="nobody")

    with pytest.raises(PipelineInvalid) as caught:
        builder.build({"size": "x"})
    assert len(caught.value.faults) == 4

    @pipeline(deadline=-1)
    def with_params(size: int) -> None: ...

    with pytest.raises(PipelineInvalid) as caught:
        with_params.build()
    assert len(caught.value.faults) == 2


def test_an_unknown_key_of_a_file_is_guessed() -> None:
    value, _ = read_yaml("{deadlin: 5, steps: {}}", "file")

    with pytest.raises(PipelineInvalid, match=r"unknown key 'deadlin'\. Did you mean 'deadline'\?"):
        PipelineFile(value, "told").build()


def test_alerts_stand_in_no_repr() -> None:
    shown = repr(built({"alerts": [SECRET]})) + repr(PipelineOptions(alerts=(SECRET,)))

    assert "secret" not in shown


def test_every_option_of_a_pipeline_says_what_it_is() -> None:
    assert all(field.description for field in PipelineOptions.model_fields.values())
