"""Values as JSON and back."""

from __future__ import annotations

import json
import math
from enum import Enum, StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.definition.model import OutputRef, ParamRef, Template
from orchestrator.definition.wire import NotWireable, from_wire, to_wire

keys = st.one_of(
    st.text(max_size=5), st.sampled_from(["$tuple", "$dict", "$output", "$"]), st.integers(), st.booleans()
)
paths = st.lists(st.text(max_size=3) | st.integers(), max_size=3).map(tuple)
refs = st.builds(OutputRef, st.text(max_size=5), paths) | st.builds(ParamRef, st.text(max_size=5), paths)
texts = st.builds(Template, st.lists(st.text(max_size=3) | refs, max_size=4).map(tuple))
leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | refs | texts
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple) | st.dictionaries(keys, inner, max_size=4)
    ),
    max_leaves=20,
)


@given(values)
def test_every_value_comes_back_from_json_as_it_was(value: Any) -> None:
    back = from_wire(json.loads(json.dumps(to_wire(value), allow_nan=False)))

    assert back == value
    assert repr(back) == repr(value)


def test_not_a_number_comes_back() -> None:
    assert math.isnan(from_wire(to_wire(math.nan)))


def test_an_enum_of_text_is_its_value() -> None:
    class Old(str, Enum):  # noqa: UP042 - the kind that str() renames
        A = "a"

    class New(StrEnum):
        A = "a"

    assert [to_wire(Old.A), to_wire(New.A)] == ["a", "a"]


def test_what_has_no_json_form_is_told_with_the_way_to_it() -> None:
    with pytest.raises(NotWireable, match=r"builtins.set at \['a'\]\[1\]"):
        to_wire({"a": [1, {2}]})
