"""References in text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.definition.model import OutputRef, ParamRef, Template
from orchestrator.definition.references import ReferenceInvalid, parse_text

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
        ("$5 $${{ a }} ${{ params.x }}", Template(("$5 ${{ a }} ", ParamRef("x")))),
    ],
)
def test_text_is_parsed(text: str, parsed: Any) -> None:
    assert parse_text(text, STEPS, PARAMS) == parsed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("${{ param.x }}", "'${{ param.x }}' begins with neither 'params.' nor 'steps.'. Did you mean 'params'?"),
        ("${{ params.x", "is not closed"),
        ("${{ steps.a }}", "names no output"),
        ("${{ steps.a.output..b }}", "cannot be read at '..b'"),
        ("${{ params.x[abc] }}", "cannot be read at '[abc]'"),
        ("${{ }}", "begins with neither"),
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
