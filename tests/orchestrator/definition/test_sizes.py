"""Amounts of memory, as options take them."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from orchestrator.definition.document import pipeline_file_schema
from orchestrator.definition.options import StepOptions


@pytest.mark.parametrize(
    ("written", "count"),
    [
        (1_000, 1_000), ("1000", 1_000), ("2GB", 2_000_000_000), ("2 gb", 2_000_000_000), ("2G",
         2_000_000_000),
        ("512MiB", 512 * 1024**2), ("512Mi", 512 * 1024**2),
        ("1.5GB", 1_500_000_000), ("1TiB", 1024**4), ("10kB", 10_000),
    ],
)  # fmt: skip
def test_an_amount_is_bytes_or_a_number_with_a_unit(written, count):
    assert StepOptions(memory=written).memory == count


@pytest.mark.parametrize(
    "written", [0, -1, 1.5, True, "", "GB", "2 XB", "-2GB", "0GB", "2GB and more", [1]]
)
def test_anything_else_is_refused(written):
    with pytest.raises(ValidationError):
        StepOptions(memory=written)


def test_what_was_read_once_is_read_again_the_same():
    options = StepOptions(memory="2GB")
    assert StepOptions.model_validate(options.model_dump()) == options


def test_the_schema_of_a_file_takes_both():
    assert '"memory": {"anyOf"' in __import__("json").dumps(pipeline_file_schema())
