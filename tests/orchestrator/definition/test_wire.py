"""Values as JSON and back."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from enum import Enum, Flag, IntEnum, StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.artifacts.plain import plain_json
from orchestrator.definition.pipeline import OutputRef, ParamRef, Template
from orchestrator.definition.typed import NotRestorable
from orchestrator.definition.wire import NotWireable, from_wire, to_wire

keys = st.one_of(
    st.text(max_size=5),
    st.sampled_from(["$tuple", "$dict", "$output", "$"]),
    st.integers(),
    st.booleans(),
)
paths = st.lists(st.text(max_size=3) | st.integers(), max_size=3).map(tuple)
refs = st.builds(OutputRef, st.text(max_size=5), paths, st.booleans()) | st.builds(
    ParamRef, st.text(max_size=5), paths, st.booleans()
)
texts = st.builds(Template, st.lists(st.text(max_size=3) | refs, max_size=4).map(tuple))
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | refs
    | texts
)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
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


class Colour(Enum):
    RED = "red"
    TUPLE = (1, 2)


class Word(StrEnum):
    A = "a"


class Level(IntEnum):
    HIGH = 3


class Access(Flag):
    READ = 1
    WRITE = 2


class Old(str, Enum):  # noqa: UP042 - the kind that str() renames
    A = "a"


@pytest.mark.parametrize(
    "member", [*Colour, *Word, *Level, *Access, Access.READ | Access.WRITE, Access(0), Old.A]
)
def test_an_enum_member_is_itself_and_is_shown_as_its_value(member: Enum) -> None:
    wire = json.loads(json.dumps(to_wire(member)))

    assert from_wire(wire) is member
    assert plain_json(wire) == ("TUPLE" if member is Colour.TUPLE else member.value)


def test_a_member_whose_class_nobody_could_import_has_no_form() -> None:
    class Inner(StrEnum):
        A = "a"

    with pytest.raises(NotWireable):
        to_wire(Inner.A)


@pytest.mark.parametrize(
    "wire", [{"$enum": ["nowhere:Nothing", "A", 1]}, {"$enum": [f"{__name__}:Word", "B", "b"]}]
)
def test_a_value_whose_type_is_gone_is_a_fault_with_its_name_or_goes_on_unread(
    wire: dict[str, Any],
) -> None:
    with pytest.raises(NotRestorable, match=wire["$enum"][0]):
        from_wire(wire)

    for around in (
        [wire],
        {"$dict": [[wire, 1]]},
        {"$mapping": ["Counter", [[wire, 1]]]},
        {"$value": ["set", [wire]]},
    ):
        assert to_wire(from_wire(around, is_lenient=True), typed=True) == around


@pytest.mark.parametrize(
    ("old", "value"),
    [
        ({"$tuple": [1, {"$dict": [[1, "a"]]}]}, (1, {1: "a"})),
        ({"$float": "-inf"}, -math.inf),
        ({"a": [1.5, "b", None, True]}, {"a": [1.5, "b", None, True]}),
        ({"$output": ["step", "key", 0]}, OutputRef("step", ("key", 0))),
    ],
)
def test_what_version_0_1_0_wrote_is_read(old: Any, value: Any) -> None:
    assert from_wire(old) == value


def test_the_pure_part_does_not_load_numpy() -> None:
    code = (
        "import sys; from orchestrator.definition.wire import from_wire, to_wire;"
        "from_wire(to_wire([1, 'a'])); assert 'numpy' not in sys.modules;"
        "assert repr(from_wire({'$numpy': ['float32', 1.5]})) == 'np.float32(1.5)'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_has_no_json_form_is_told_with_the_way_to_it() -> None:
    with pytest.raises(NotWireable, match=r"builtins.set at \['a'\]\[1\]"):
        to_wire({"a": [1, {2}]})


@pytest.mark.parametrize(
    "value", [10**5000, -(10**5000), [10**5000]], ids=["large", "negative", "in a list"]
)
def test_an_int_of_more_digits_than_python_writes_has_no_form(value: Any) -> None:
    with pytest.raises(NotWireable, match=r"builtins\.int"):
        to_wire(value)
