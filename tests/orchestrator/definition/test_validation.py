"""Whatever pydantic finds wrong with an option is said in our words, by the type of its error."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from orchestrator.definition.options import PipelineOptions, StepOptions
from orchestrator.definition.validation import validation_faults

NUMBERS: list[Any] = [-1, 10**9, 1.5, float("nan"), float("inf"), True]
BAD = [*NUMBERS, object(), "no such", "", [1], ["a b"], {"a": 1}, b"x"]


@pytest.mark.parametrize("value", BAD, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("model", [StepOptions, PipelineOptions])
def test_no_sentence_is_pydantics(model: type[BaseModel], value: Any) -> None:
    found = []
    for name in model.model_fields:
        try:
            model.model_validate({name: value})
        except ValidationError as error:
            found += validation_faults("step 's'", "option", error, model.model_fields)

    assert found
    for sentence in found:
        assert "should" not in sentence.lower(), sentence
        assert "Value error" not in sentence, sentence
        assert sentence.endswith((".", "?")), sentence
