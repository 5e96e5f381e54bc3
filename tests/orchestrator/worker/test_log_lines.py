"""Bytes in pieces of any size become the lines that a person would see."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.worker.log_lines import LINE_CHARS, LogLines, kept_line

texts = st.text(st.sampled_from("ab é🙂\r\n"), max_size=60) | st.text(max_size=60)


def lines_of(pieces: list[bytes | str]) -> list[str]:
    lines = LogLines()
    found = [line for piece in pieces for line in lines.add(piece)] + lines.end()
    return [kept_line(*line) for line in found]


def cut(data: bytes, places: list[int]) -> list[bytes | str]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[begin:end] for begin, end in pairwise(edges)]


@given(
    st.binary(max_size=60) | texts.map(lambda text: text.encode("utf-8", "replace")),
    st.lists(st.integers(0, 999)),
)
def test_where_the_pieces_begin_and_end_changes_nothing(data: bytes, places: list[int]) -> None:
    assert lines_of(cut(data, places)) == lines_of([data])


@given(texts)
def test_every_line_is_there_with_what_stood_in_it_at_its_end(text: str) -> None:
    data = text.encode("utf-8", "replace")
    written = data.decode().split("\n")
    expected = [line.rstrip("\r").rpartition("\r")[2] for line in written]

    assert lines_of([data]) == (expected if expected[-1] else expected[:-1])


@given(st.binary(max_size=60))
def test_bytes_that_are_no_text_are_replaced_and_the_rest_is_kept(data: bytes) -> None:
    data = data.replace(b"\r", b"")
    expected = data.decode(errors="replace").split("\n")

    assert lines_of([data]) == (expected if expected[-1] else expected[:-1])


def test_text_that_has_no_utf_8_is_written_out() -> None:
    assert lines_of(["a\ud83d\n", "b"]) == ["a\\ud83d", "b"]


def test_a_progress_bar_of_any_length_is_its_last_state_and_takes_little_memory() -> None:
    lines = LogLines()
    for number in range(100_000):
        assert lines.add(f"\r{number:>6} of 100000".encode()) == []
    assert len(lines._open) < 100

    assert lines.add(b"\nnext\n") == [(" 99999 of 100000", 0), ("next", 0)]


def test_a_line_longer_than_is_kept_says_how_much_is_missing_and_is_held_within_a_bound() -> None:
    lines = LogLines()
    for _ in range(100):
        lines.add(b"x" * 100_000)
        assert len(lines._open) <= 2 * LINE_CHARS
    ended = lines.add(b"\nshort\n")

    missing = 100 * 100_000 - LINE_CHARS
    assert [kept_line(*line) for line in ended] == [
        f"{'x' * LINE_CHARS}… [{missing:,} more characters of this line were not kept]",
        "short",
    ]


@given(
    st.integers(LINE_CHARS - 3, 2 * LINE_CHARS + 3),
    st.integers(1, 5000),
    st.sampled_from(["", "\r"]),
)
def test_what_is_kept_and_what_is_missing_make_the_line(
    length: int, piece: int, ending: str
) -> None:
    data = b"y" * length + ending.encode() + b"\n"
    (line,) = lines_of([data[at : at + piece] for at in range(0, len(data), piece)])

    if length <= LINE_CHARS:
        assert line == "y" * length
    else:
        assert (
            line
            == f"{'y' * LINE_CHARS}… [{length - LINE_CHARS:,} more characters of this line were not"
            " kept]"
        )


def test_what_overwrites_a_long_line_is_whole_again() -> None:
    assert lines_of(["z" * 50_000, "\r", "done", "\n"]) == ["done"]
