"""A value of a param is validated once, whatever way it takes, and keeps its type in the record."""

from __future__ import annotations

import json
import re
import uuid
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, Flag, IntEnum, StrEnum
from fractions import Fraction
from ipaddress import IPv4Address
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AfterValidator, BaseModel, BeforeValidator, SecretStr, model_validator

from orchestrator import Pipeline, PipelineBuilder, PipelineInvalid, pipeline, step
from orchestrator.artifacts.plain import plain_json
from orchestrator.definition.document import PipelineFile
from orchestrator.definition.loading import Definition, parse_params
from orchestrator.definition.params import (
    Param,
    ReadParams,
    is_kept,
    params_of_record,
    params_text,
)
from orchestrator.definition.pipeline import ParamRef
from orchestrator.definition.yaml_text import read_yaml
from orchestrator.runs.loading import plan_of
from orchestrator.settings.model import Settings

read: list[Any] = []  # what the validator was given, since the test began


@pytest.fixture(autouse=True)
def _nothing_read() -> None:
    read.clear()


def hundredfold(value: int) -> int:
    read.append(value)
    return value * 100


Hundredfold = Annotated[int, AfterValidator(hundredfold)]


@step
def show(x: int) -> int:
    return x


@pipeline
def by_function(x: Hundredfold = 1) -> None:
    show(x)


def by_builder() -> PipelineBuilder:
    builder = PipelineBuilder("p", params={"x": Param("x", Hundredfold, 1)})
    builder.add("show", show, args=[ParamRef("x")])
    return builder


def resumed(definition: Definition, before: Pipeline, *pairs: str) -> Pipeline:
    """What a resume or a rerun makes of the pipeline of an earlier time and of what the record has
    of it."""
    return plan_of(definition, pairs, Settings(), params_of_record(params_text(before.params)))[
        0
    ].pipeline


DOORS: dict[str, tuple[Callable[[Definition], Pipeline], int, list[int]]] = {
    "build": (lambda it: it.build({"x": 3}), 300, [3]),
    "build of a default": (lambda it: it.build(), 100, [1]),
    "parse_params": (lambda it: it.build(parse_params(["x=3"], it)), 300, [3]),
    "run": (lambda it: plan_of(it, ["x=3"], Settings())[0].pipeline, 300, [3]),
    "run of a default": (lambda it: plan_of(it, [], Settings())[0].pipeline, 100, [1]),
    "resume": (lambda it: resumed(it, it.build({"x": 3})), 300, [3]),
    "resume of a default": (lambda it: resumed(it, it.build()), 100, [1]),
    "resume of a resume": (lambda it: resumed(it, resumed(it, it.build({"x": 3}))), 300, [3]),
    "resume with -p": (lambda it: resumed(it, it.build({"x": 3}), "x=5"), 500, [3, 5]),
    "resume after a resume with -p": (lambda it: resumed(it, resumed(it, it.build(), "x=5")), 500,
    [1, 5]),
}  # fmt: skip


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("make", [lambda: by_function, by_builder], ids=["function", "builder"])
def test_a_validator_that_is_not_idempotent_runs_once_through(
    door: str, make: Callable[[], Definition]
) -> None:
    through, value, given_to_it = DOORS[door]

    built = through(make())

    assert (built.params["x"], read) == (value, given_to_it)
    if make is not by_builder:
        assert built.steps["show"].call.args == (value,)  # type: ignore[union-attr]


def test_a_pipeline_that_is_built_twice_from_the_same_texts_is_the_same_twice() -> None:
    values = parse_params(["x=3"], by_function)

    assert [by_function.build(values).params["x"] for _ in range(3)] == [300] * 3
    assert read == [3]


def noted(value: Any) -> Any:
    read.append(value)
    return value


@pipeline
def by_text(
    word: Annotated[str, BeforeValidator(noted)],
    mode: Annotated[Literal["1", "2"], BeforeValidator(noted)],
):
    show(1)


def test_a_text_is_read_as_text_once_where_text_is_wanted() -> None:
    assert dict(parse_params(["word=007", "mode=1"], by_text)) == {"word": "007", "mode": "1"}
    # a Literal says only when it refuses the number that the text is what is wanted
    assert read == [
        "007",
        1,
        "1",
    ]


def test_texts_of_a_yaml_file_and_their_references_are_read_once() -> None:
    text = """
        name: p
        params: {word: "$${{ params.n }}", n: {type: int, default: 3}, rate: {type: float, default: 1}}
        steps:
          show: {uses: "builtins:print", args: ["${{ params.word }}", "a $${{ params.n }} ${{ params.n }}"]}
    """
    value, faults = read_yaml(text, "file")
    file = PipelineFile(value, "file", faults)
    first = file.build({"word": "${{ params.n }}"})

    for built in (
        first,
        file.build(parse_params(["word=${{ params.n }}"], file)),
        resumed(file, first),
    ):
        assert built.params == {"word": "${{ params.n }}", "n": 3, "rate": 1.0}
        assert [type(built.params[name]) for name in ("n", "rate")] == [int, float]
        assert built.steps == first.steps


def test_a_function_that_changes_what_it_is_given_changes_neither_the_record_nor_the_next_run() -> (
    None
):
    @pipeline
    def growing(kinds=["a"], more: list[str] = ["b"]) -> None:  # noqa: B006
        kinds.append("changed")
        more.append("changed")
        show.options(name=f"n{len(kinds) + len(more)}")(1)

    first, second = growing.build(), growing.build()

    assert dict(first.params) == dict(second.params) == {"kinds": ["a"], "more": ["b"]}
    assert list(first.steps) == list(second.steps) == list(resumed(growing, first).steps) == ["n4"]


def test_recorded_values_are_taken_as_they_are_even_when_the_type_is_another_one_now() -> None:
    @pipeline(name="by_function")
    def by_text(x: str = "") -> None:
        show.options(name=f"show{x!r}")(1)

    assert list(resumed(by_text, by_function.build({"x": 3})).steps) == ["show300"]


def test_read_params_cannot_be_changed_or_mixed_with_values_that_nobody_has_read() -> None:
    values = parse_params(["x=3"], by_function)

    with pytest.raises(TypeError):
        values["x"] = 4  # type: ignore[index]
    with pytest.raises(TypeError):
        values | {"x": 4}  # type: ignore[operator]
    assert dict(values | ReadParams({"y": 1})) == {"x": 300, "y": 1}
    # a plain mapping is a caller's values
    assert by_function.build(dict(values)).params["x"] == 30000


# -- types -----------------------------------------------------------------------------------------


class Colour(Enum):
    RED = "red"
    PAIR = (1, date(2026, 1, 2))


class Word(StrEnum):
    A = "a"


class Level(IntEnum):
    HIGH = 3


class Rights(Flag):
    READ = 1
    WRITE = 2


class Pair(NamedTuple):
    left: int
    right: Path


@dataclass(frozen=True, slots=True)
class Frozen:
    day: date
    words: tuple[str, ...] = ()


@dataclass
class Doubling:
    n: int
    seen: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.n *= 2


class Model(BaseModel):
    n: int = 1
    where: Path = Path("/data")
    inner: Frozen | None = None

    @model_validator(mode="after")
    def _growing(self) -> Model:
        object.__setattr__(self, "n", self.n + 1)
        return self


VALUES: Mapping[str, Any] = {
    "Path": Path("/data/a b"),
    "PurePosixPath": PurePosixPath("a"),
    "Decimal": Decimal("1.10"),
    "Fraction": Fraction(1, 3),
    "date": date(2026, 11, 23),
    "datetime": datetime(2026, 11, 23, 1, 2, 3, 4),
    "aware": datetime(2026, 1, 2, tzinfo=UTC),
    "zoned": datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1),
    "time": time(3, 4, 5, 6),
    "timedelta": timedelta(days=-1, microseconds=7),
    "Enum": Colour.RED,
    "Enum of parts": Colour.PAIR,
    "StrEnum": Word.A,
    "IntEnum": Level.HIGH,
    "Flag": Rights.READ | Rights.WRITE,
    "set": {3, 1, 2},
    "mixed set": {"a", 1, (2, "b")},
    "frozenset": frozenset({Path("a"), Path("b")}),
    "tuple": (1, (2, [3])),
    "NamedTuple": Pair(1, Path("x")),
    "bytes": b"\x00\xff",
    "bytearray": bytearray(b"a"),
    "complex": 1 + 2j,
    "range": range(1, 9, 2),
    "UUID": uuid.UUID(int=7),
    "IPv4Address": IPv4Address("10.0.0.1"),
    "Pattern": re.compile("a+", re.I),
    "deque": deque([1, 2], maxlen=3),
    "Counter": Counter("aab"),
    "OrderedDict": OrderedDict(b=1, a=2),
    "dataclass": Frozen(date(2026, 1, 2), ("x",)),
    "dataclass that converts": Doubling(4, [1]),
    "model that converts": Model(n=5, inner=Frozen(date(2026, 1, 2))),
    "dict of dates": {date(2026, 1, 2): [Path("a")], "$tuple": 1},
    "int": 3,
    "float": float("inf"),
    "bool": True,
    "None": None,
    "str": "ü",
    "numpy float": np.float64(0.1),
    "numpy int": np.int64(3),
    "numpy time": np.datetime64("2026-01-02T00:00:00", "ns"),
}


@pytest.mark.parametrize("kind", VALUES)
def test_the_record_gives_a_value_back_with_its_type(kind: str) -> None:
    value = VALUES[kind]

    text = params_text({"x": value})
    back = params_of_record(text)["x"]

    assert type(back) is type(value)
    assert back == value
    assert is_kept(value)
    assert params_text({"x": back}) == text  # so that a resume does not call it changed
    json.dumps(plain_json(json.loads(text)["x"]), allow_nan=False)  # people are shown plain JSON


@pytest.mark.parametrize("kind", VALUES)
def test_a_function_gets_the_same_value_when_the_run_goes_on(kind: str) -> None:
    got: list[Any] = []

    @pipeline
    def p(x: Any) -> None:
        got.append(x)
        show(1)

    resumed(p, p.build({"x": VALUES[kind]}))

    assert got == [VALUES[kind]] * 2
    assert type(got[1]) is type(VALUES[kind])


nested = st.recursive(
    st.sampled_from(list(VALUES.values())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner,
    max_size=3)
    | st.lists(inner, max_size=3).map(tuple),
    max_leaves=10,
)  # fmt: skip


@given(nested)
def test_values_inside_others_keep_their_types_too(value: Any) -> None:
    text = params_text({"x": value})
    back = params_of_record(text)["x"]

    assert back == value
    assert params_text({"x": back}) == text  # which names every type


@pytest.mark.parametrize(
    ("kind", "value", "shown"),
    [
        ("date", date(2026, 11, 23), "2026-11-23"),
        ("Path", Path("/data"), "/data"),
        ("Enum", Colour.RED, "red"),
        (
            "datetime",
            datetime(2026, 1, 2, tzinfo=ZoneInfo("Europe/Berlin")),
            "2026-01-02T00:00:00+01:00",
        ),
        ("timedelta", timedelta(hours=1), "PT1H"),
        ("set", {2, 1}, [1, 2]),
        ("model", Model(n=1), {"n": 2, "where": "/data", "inner": None}),
        ("secret", SecretStr("hunter2"), "**********"),
    ],
)
def test_people_are_shown_plain_json(kind: str, value: Any, shown: Any) -> None:
    text = params_text({"x": value})

    assert plain_json(json.loads(text)["x"]) == shown
    assert "hunter2" not in text


class Odd:
    """Its text says nothing of it, and two of them are never equal."""


def test_what_the_record_only_shows_must_be_given_anew_to_go_on() -> None:
    @pipeline
    def p(word: SecretStr, n: int = 1) -> None:
        show(len(word.get_secret_value()) + n)

    first = p.build({"word": "hunter2"})

    assert first.params["word"] == SecretStr("hunter2")
    with pytest.raises(
        PipelineInvalid,
        match=r"the recorded value of param 'word' cannot be used again: .* -p word=…",
    ):
        resumed(p, first)
    assert resumed(p, first, "word=abc").steps["show"].call.args == (4,)  # type: ignore[union-attr]


def test_a_value_whose_class_is_gone_must_be_given_anew_and_says_why() -> None:
    text = params_text({"x": Colour.RED}).replace("Colour", "Color")

    (lost,) = params_of_record(text).values()

    assert "has no 'Color'. Did you mean 'Colour'?" in lost.reason
    # the record keeps it, for a time when the class is there again
    assert params_text({"x": lost}) == text


def test_a_step_cannot_read_a_param_that_the_record_does_not_keep() -> None:
    builder = PipelineBuilder("p", params={"x": Param("x", SecretStr, SecretStr("hunter2"))})
    builder.add("show", show, args=[ParamRef("x")])

    with pytest.raises(
        PipelineInvalid, match=r"step 'show' reads param 'x', a .*SecretStr, which has no JSON form"
    ):
        builder.build()


def test_a_value_that_json_cannot_even_show_is_a_fault() -> None:
    @pipeline
    def p(x: Any) -> None:
        show(1)

    with pytest.raises(
        PipelineInvalid, match=r"param 'x' holds at \['a'\] a .*Odd, which has no JSON form"
    ):
        p.build({"x": {"a": Odd()}})
