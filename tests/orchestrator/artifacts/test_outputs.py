"""An output arrives with the type and the value that was returned, at every size and at each
level."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import fractions
import functools
import json
import math
import pathlib
import uuid
from enum import Enum, Flag, IntEnum, IntFlag, StrEnum
from typing import Any, NamedTuple

import numpy as np
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.artifacts.outputs import decode_output, encode_output
from orchestrator.artifacts.plain import plain_value, shown_output
from orchestrator.artifacts.reference import artifact_of
from orchestrator.artifacts.values import ArtifactStore
from orchestrator.attempt_id import AttemptId


class Colour(Enum):
    RED = 1


class Word(StrEnum):
    A = "a"


class Level(IntEnum):
    HIGH = 3


class Access(Flag):
    READ = 1
    WRITE = 2


class Bits(IntFlag):
    ONE = 1
    TWO = 2


class Ratio(float, Enum):
    HALF = 0.5


class Odd(Enum):
    """Members that are not found by their values: these equal nothing, not even a copy of
    themselves."""

    NAN = math.nan
    CALL = functools.partial(int, base=2)
    TOKEN = object()


class Pair(NamedTuple):
    x: int
    y: str


@dataclasses.dataclass
class Point:
    x: float


class Model(pydantic.BaseModel):
    name: str


class MyInt(int): ...


class MyFloat(float): ...


class MyStr(str): ...


class MyList(list[Any]): ...


class MyDict(dict[str, Any]): ...


class MyTuple(tuple[Any, ...]): ...


def with_attribute() -> Any:
    made = collections.OrderedDict(a=1)
    made.note = "mine"  # type: ignore[attr-defined]
    return made


NUMPY_IN_LINE = [
    *(np.dtype(code).type(3) for code in "bBhHiIlLqQpPefdgFDG"),
    *(np.dtype(code).type(value) for code in "efdg" for value in ("nan", "inf", "-inf", "-0.0",
    "0.1")),
    np.float64(5e-324), np.longdouble(1) / 3, np.clongdouble(1j) / 3, np.complex64(complex(math.nan,
    -0.0)),
    np.uint64(2**64 - 1), np.int64(-(2**63)), np.True_, np.False_,
    np.str_("text é\0"), np.str_(""), np.bytes_(b"\xff\0a\0"), np.bytes_(b""), np.void(b"\0\xff"),
    *(np.datetime64("2026-01-02T03:04:05", unit) for unit in ("Y", "M", "W", "D", "h", "m", "s",
    "ms", "us", "ns")),
    np.datetime64("NaT"), np.datetime64("NaT", "ns"), np.datetime64(25, "10s"),
    *(np.timedelta64(-7, unit) for unit in ("Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns",
    "ps", "fs", "as")),
    np.timedelta64(7), np.timedelta64("NaT"),
    np.array([(1, 2.5, "é")], dtype=[("a", "<i4"), ("b", ">f8"), ("c", "<U3")])[0],
    np.array([((1, 2), [3, 4])], dtype=[("in", [("x", "i1"), ("y", "i2")]), ("sub", "i4", (2,
    ))])[0],
]  # fmt: skip
IN_LINE = [
    *NUMPY_IN_LINE, None, True, 0, -1, 10**4000, 1.5, -0.0, math.nan, math.inf, -math.inf, "",
    "é\0\u2028", "\ud83d",
    "\ud83d\ude00", "\U0001f600", Colour.RED, Word.A, Level.HIGH, Access.READ,
    Access.READ | Access.WRITE, Access(0),
    Bits.ONE | Bits.TWO, Bits(8), Ratio.HALF, *Odd, [], (), {}, [1, (2, [3])], (1,),
    {"$artifact": {"path": "x"}},
    {"$numpy": [1]},
    {1: "a", True + 1: "b", None: "c", (1, 2): "d", 1.5: "e", "$x": "f"}, {True: 1}, {"\ud83d": 1},
    {Word.A: 1},
    {np.int64(1): 2}, collections.Counter("hello"), collections.Counter(),
    collections.OrderedDict([("b", 1), ("a", 2)]),
    collections.defaultdict(list, {"a": [1]}), collections.defaultdict(None, {"a": 1}),
    collections.defaultdict(int),
]  # fmt: skip
STORED = [
    np.array(5), np.array([1, 2]), np.array((1, 2), dtype=[("a", "i4"), ("b", "f8")]),
    np.ma.masked_array([1], [True]),
    np.array([(1, 2)], dtype=np.dtype([("a", "i1"), ("b", "f8")], align=True))[0],
    np.rec.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")])[0], np.rec.array([(1,)], dtype=[("a",
    "i4")]),
    b"", b"\0", bytearray(b"ab"), set(), {1, 2}, frozenset({"a"}), range(3), slice(1, 2), 1j,
    Ellipsis,
    decimal.Decimal("1.10"), fractions.Fraction(1, 3), uuid.UUID(int=5),
    pathlib.PurePosixPath("/a"),
    dt.date(2026, 1, 2), dt.datetime(2026, 1, 2, 3, 4, 5, 6,
    tzinfo=dt.timezone(dt.timedelta(hours=1))),
    dt.time(1, 2, fold=1),
    dt.timedelta(days=-1, microseconds=1), collections.deque([1], maxlen=2),
    collections.ChainMap({"a": 1}),
    Pair(1, "a"),
    Point(1.5), Model(name="a"), MyInt(1), MyFloat(1.5), MyStr("a"), MyList([1]), MyDict(a=1),
    MyTuple((1,)),
    with_attribute(),
    10**5000, dict, len, collections.defaultdict(dt.date.today),
]  # fmt: skip


def same(one: Any, other: Any) -> bool:
    """Whether two values have one type and one value, at each level."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray | np.generic):
        return (
            one.dtype == other.dtype
            and one.shape == other.shape
            and one.tobytes() == other.tobytes()
        )
    if isinstance(one, dict):
        return (
            len(one) == len(other)
            and all(map(same, one, other))
            and all(map(same, one.values(), other.values()))
            and getattr(one, "default_factory", None) == getattr(other, "default_factory", None)
            and getattr(one, "__dict__", None) == getattr(other, "__dict__", None)
        )
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float):
        return repr(float(one)) == repr(float(other))
    return bool(one == other)


@pytest.fixture
def store(tmp_path: pathlib.Path) -> ArtifactStore:
    return ArtifactStore.in_folder(tmp_path)


def through(value: Any, store: ArtifactStore, inline_bytes: int) -> tuple[Any, bool]:
    text = encode_output(
        value, inline_bytes, lambda value: store.save(AttemptId("run", "step", 1), 1, value)
    )
    return decode_output(text, store), bool(text) and artifact_of(json.loads(text)) is not None


def name_of(value: Any) -> str:
    shown = "large" if isinstance(value, int) and abs(value) > 10**9 else str(value)[:20]
    return f"{type(value).__name__} {shown!a}"


AROUND = {
    "alone": lambda value: value,
    "in a list": lambda value: [value],
    "in a tuple": lambda value: (value, value),
    "in a dict": lambda value: {"a": value, 1: value},
    "deep": lambda value: [({"a": collections.OrderedDict(b=[value])},)],
    "many": lambda value: [value] * 10_001,
}


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("value", IN_LINE, ids=name_of)
def test_scalars_enum_members_and_the_mappings_of_collections_stay_in_line(
    store: ArtifactStore, value: Any, around: str
) -> None:
    given = AROUND[around](value)
    arrived, is_stored = through(given, store, 100_000)

    assert same(arrived, given), arrived
    assert around == "many" or not is_stored


@pytest.mark.parametrize("value", STORED, ids=name_of)
def test_what_has_no_exact_form_goes_to_the_store(store: ArtifactStore, value: Any) -> None:
    given = ["small", (value,)]
    arrived, is_stored = through(given, store, 100_000)

    assert same(arrived, given), arrived
    assert is_stored


@pytest.mark.parametrize("around", sorted(AROUND.keys() - {"many"}))
def test_a_value_of_any_type_comes_back_from_the_store_as_it_was(
    store: ArtifactStore, around: str
) -> None:
    for_each = [AROUND[around](value) for value in [*IN_LINE, *STORED]]

    arrived, _ = through(for_each, store, 0)

    assert [one for one, other in zip(arrived, for_each, strict=True) if not same(one, other)] == []


scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.builds(NUMPY_IN_LINE.__getitem__, st.integers(0, len(NUMPY_IN_LINE) - 1))
    | st.text(st.characters(categories=["Cs", "Lu"]), max_size=3)
    | st.sampled_from([*Word, *Level, *Access, Colour.RED])
    | st.binary(max_size=3) | st.decimals() | st.dates() | st.complex_numbers() | st.fractions()
)  # fmt: skip
keys = (
    st.text(max_size=3)
    | st.integers()
    | st.booleans()
    | st.sampled_from(["$tuple", "$", Word.A, np.int8(1), (1, "a")])
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=3)
        | st.dictionaries(keys, inner, max_size=3).map(collections.OrderedDict)
        | st.dictionaries(keys, inner, max_size=3).map(
            lambda items: collections.defaultdict(list, items)
        )
        | st.dictionaries(keys, st.integers(), max_size=3).map(collections.Counter)
    ),
    max_leaves=12,
)


@given(values)
def test_in_line_and_stored_are_the_same(
    tmp_path_factory: pytest.TempPathFactory, value: Any
) -> None:
    store = ArtifactStore.in_folder(tmp_path_factory.getbasetemp() / "law")
    in_line, stored = through(value, store, 10**6)[0], through(value, store, -1)[0]

    assert repr(in_line) == repr(stored) == repr(value)
    assert [*types(in_line)] == [*types(stored)] == [*types(value)]


def types(value: Any) -> Any:
    yield type(value)
    if isinstance(value, dict):
        for key, item in value.items():
            yield from types(key)
            yield from types(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from types(item)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (np.float32(1.5), 1.5),
        (np.int64(2**40), 2**40),
        (np.True_, True),
        (np.float64("nan"), "nan"),
        (np.str_("a"), "a"),
        (np.bytes_(b"a\xff"), "a\\xff"),
        (np.datetime64("2026-01-02", "ns"), "2026-01-02T00:00:00.000000000"),
        (np.timedelta64(5, "D"), "5 days"),
        (Word.A, "a"),
        (Level.HIGH, 3),
        (Colour.RED, 1),
        ("\ud83d", "\\ud83d"),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (
            {"a": [np.int8(1), (Word.A,)], np.int8(2): {Level.HIGH: 0.5}},
            {"a": [1, ["a"]], "2": {"3": 0.5}},
        ),
        ({(1, 2): "a", None: 1}, {"(1, 2)": "a", "None": 1}),
    ],
)
def test_people_and_shells_are_shown_plain_numbers_and_text(value: Any, shown: Any) -> None:
    text = encode_output(value, 10**6, lambda _: pytest.fail("it was stored"))

    assert shown_output(text) == shown
    assert plain_value(value) == shown
    json.dumps(plain_value(value), allow_nan=False)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (pathlib.PurePosixPath("/a b"), "/a b"),
        (dt.date(2026, 1, 2), "2026-01-02"),
        (dt.datetime(2026, 1, 2, 3, tzinfo=dt.UTC), "2026-01-02T03:00:00+00:00"),
        (decimal.Decimal("1.10"), "1.10"),
        (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        (b"a\xff", "a\\xff"),
        ({2, 1}, [1, 2]),
        (collections.deque([1, 2], maxlen=2), [1, 2]),
        (Point(1.5), {"x": 1.5}),
        (Model(name="a"), {"name": "a"}),
        (Pair(1, "a"), [1, "a"]),
        (np.array(5), 5),
        (np.arange(2000), [*range(2000)]),
        (np.array([(1, "a")], dtype=[("a", "i4"), ("b", "U1")]), [[1, "a"]]),
        (np.array(["2026-01-02", "NaT"], dtype="M8[ns]"), ["2026-01-02T00:00:00.000000000", "NaT"]),
        (1j, [0.0, 1.0]),
        (Ellipsis, "Ellipsis"),
    ],
    ids=name_of,
)
def test_what_goes_to_the_store_is_plain_json_or_text_for_commands(value: Any, shown: Any) -> None:
    assert plain_value(value) == shown
    assert plain_value({"a": [value]}) == {"a": [shown]}
    json.dumps(plain_value(value), allow_nan=False)
