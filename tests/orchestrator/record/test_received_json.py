"""What an attempt was given, as JSON."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import pytest

from orchestrator.definition.pipeline import OutputRef, ParamRef, Template
from orchestrator.definition.wire import to_wire
from orchestrator.ledger.entries import CallKind, StepSpec
from orchestrator.record.received import Received, Source
from orchestrator.record.received_json import arguments_json


@pytest.mark.parametrize(
    ("args", "shown"),
    [
        ([{"$enum": ["gone:Mode", "FAST", "fast"]}], ["fast"]),
        ([{"$numpy": ["float32", 0.5]}, {"$mapping": ["Counter", [["a", 2]]]}], [0.5, {"a": 2}]),
        ([{"$param": ["where"]}], ["/data"]),
    ],
)
def test_arguments_of_any_type_are_shown_also_where_the_type_is_not_there(
    args: list[Any], shown: Any
) -> None:
    params = {"where": to_wire(PurePosixPath("/data"), typed=True)}

    assert (
        arguments_json(Received(StepSpec("cpu", uses="m:f", args=args), params, {}))["args"]
        == shown
    )


def test_an_output_of_a_type_that_is_not_there_is_named_by_it() -> None:
    source = Source("a", 1, '{"$enum": ["gone:Mode", "FAST", "fast"]}')
    shown = arguments_json(
        Received(StepSpec("cpu", uses="m:f", args=[{"$output": ["a"]}]), {}, {"a": source})
    )

    assert shown["args"][0]["output"]["type"] == "gone:Mode"


def test_a_command_is_shown_as_it_was_written() -> None:
    command = Template(("cat ", ParamRef("x", as_file=True), " ", OutputRef("a", ("key",))))
    shown = arguments_json(
        Received(
            StepSpec("cpu", CallKind.SHELL, command=to_wire(command)),
            {"x": 1},
            {"a": Source("a", 1, "2")},
        )
    )

    assert 'cat ${{ file(params.x) }} ${{ steps.a.output["key"] }}' in shown.values()
