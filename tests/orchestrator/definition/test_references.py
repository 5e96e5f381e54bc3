"""References in text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.definition.pipeline import OutputRef, ParamRef, Template
from orchestrator.definition.references import (
    ReferenceInvalid,
    parse_command,
    parse_text,
    parse_value,
)

STEPS = ["a", "a.b", "a.output", "train[svc-1]", "x-1.2"]
PARAMS = ["x", "x.y", "gate"]


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("plain", "plain"),
        ("", ""),
        ("${{ params.x }}", ParamRef("x")),
        ("${{params.gate}}", ParamRef("gate")),
        ("${{ params.x.key[0] }}", ParamRef("x", ("key", 0))),
        ("${{ params.x.y.key }}", ParamRef("x.y", ("key",))),
        ("${{ params.nope.key }}", ParamRef("nope", ("key",))),
        ("${{ steps.a.output }}", OutputRef("a")),
        ("${{ steps.a.output.key }}", OutputRef("a", ("key",))),
        ("${{ steps.a.output.0['b c'][\"d\"][-1] }}", OutputRef("a", (0, "b c", "d", -1))),
        ("${{ steps.a.b.output }}", OutputRef("a.b")),
        ("${{ steps.a.output.output.k }}", OutputRef("a.output", ("k",))),
        ("${{ steps.a.output.outputs }}", OutputRef("a", ("outputs",))),
        ("${{ steps.train[svc-1].output }}", OutputRef("train[svc-1]")),
        ("${{ steps.x-1.2.output.k }}", OutputRef("x-1.2", ("k",))),
        ("${{ steps.nope.output.k }}", OutputRef("nope", ("k",))),
        ("a ${{ params.x }}", Template(("a ", ParamRef("x")))),
        ("${{ params.x }}${{ steps.a.output }}!", Template((ParamRef("x"), OutputRef("a"), "!"))),
        ("$${{ params.x }}", "${{ params.x }}"),
        ("${{ file(steps.a.output.key) }}", OutputRef("a", ("key",), as_file=True)),
        ("${{file ( params.x )}}", ParamRef("x", as_file=True)),
        (
            "cat ${{ file(steps.train[svc-1].output) }}",
            Template(("cat ", OutputRef("train[svc-1]", (), as_file=True))),
        ),
        ("$5 $${{ a }} ${{ params.x }}", Template(("$5 ${{ a }} ", ParamRef("x")))),
    ],
)
def test_text_is_parsed(text: str, parsed: Any) -> None:
    assert parse_text(text, STEPS, PARAMS) == parsed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "${{ param.x }}",
            "'${{ param.x }}' begins with neither 'params.' nor 'steps.'. Did you mean 'params'?",
        ),
        ("${{ params.x", "is not closed"),
        ("${{ steps.a }}", "names no output"),
        ("${{ steps.a.output..b }}", "cannot be read at '..b'"),
        ("${{ params.x[abc] }}", "cannot be read at '[abc]'"),
        ("${{ }}", "begins with neither"),
        ("${{ file() }}", "begins with neither"),
        ("${{ file(params.x }}", "'${{ file(params.x }}' is not closed; end it with ')'."),
        ("${{ file(params.x).key }}", "'${{ file(params.x).key }}' is not closed"),
        ("${{ file(file(params.x)) }}", "'${{ file(file(params.x)) }}' names a file of a file"),
        (
            "${{ file(param.x) }}",
            "'${{ file(param.x) }}' begins with neither 'params.' nor 'steps.'.",
        ),
        ("${{ params. }}", "begins with neither"),
    ],
)
def test_what_cannot_be_read_is_told(text: str, said: str) -> None:
    with pytest.raises(ReferenceInvalid) as caught:
        parse_text(text, STEPS, PARAMS)
    assert said in str(caught.value)


@given(st.text(alphabet="ab$\n {}", max_size=20))
def test_escaped_text_comes_back(text: str) -> None:
    # a "$" right before a mark would be read as its escape
    escaped = text.replace("${{", "$${{")
    assert parse_text(escaped, (), ()) == text


@pytest.mark.parametrize(
    "value", ["${{ file(params.x) }}", ["a", {"b": "see ${{file(params.x)}}"}]]
)
def test_a_file_in_an_argument_is_a_fault(value: Any) -> None:
    faults: list[str] = []
    parse_value(value, STEPS, PARAMS, faults, "step 'a'")

    assert faults == [
        "step 'a': '${{ file(params.x) }}' stands in an argument, but only a command ('run') is"
        " given files. Write '${{ params.x }}'."
    ]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("cat ${{ file(params.x) }}", None),
        ("cat '${{ file(params.x) }}'", "stands in single quotes"),
        ("echo a\0b", "holds a NUL"),
    ],
)
def test_a_file_in_a_command_is_fine_where_the_shell_fills_it_in(
    command: str, said: str | None
) -> None:
    faults: list[str] = []
    parsed = parse_command(command, STEPS, PARAMS, faults, "step 'a'")

    assert faults == [] if said is None else said in faults[0]
    if said is None:
        assert parsed == Template(("cat ", ParamRef("x", as_file=True)))
