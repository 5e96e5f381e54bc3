"""Phrases of which our texts are made: counts, lists of names, what others say, an error in one
line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

LINE_CHARS = 300
_ITEM = re.compile(r"\[[^\[\]]*\]")
_SIZES = ("B", "kB", "MB", "GB", "TB")


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a count with its noun: "1 step", "2,000 steps"."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def are(count: int, noun: str) -> str:
    """Return a count with its noun and verb: "1 step is", "2 steps are"."""
    return f"{counted(count, noun)} {'is' if count == 1 else 'are'}"


def listed(words: Sequence[str], most: int, *, separator: str = ", ") -> str:
    """Return the first `most` words, and how many more there are: "a, b and 3 more"."""
    return separator.join(words[:most]) + and_more(len(words) - most)


def and_more(count: int, noun: str = "") -> str:
    """Return " and 3 more", or " and 3 more failed steps"; empty if there are no more."""
    return f" and {count:,} more{' ' if noun else ''}{noun}" if count > 0 else ""


def size_text(count: float) -> str:
    """Return a number of bytes: "5 B", "2.5 GB"."""
    power = 0
    while count >= 1000 and power < len(_SIZES) - 1:
        count, power = count / 1000, power + 1
    return f"{count:,.0f} {_SIZES[power]}" if count >= 100 else f"{count:.3g} {_SIZES[power]}"


def fan_outs(names: Iterable[str]) -> dict[str, list[str]]:
    """Return names of steps by what they share: "fit[1][a]" and "fit[2][a]" are items of
    "fit[..][..]"."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(_ITEM.sub("[..]", name), []).append(name)
    return found


def with_article(noun: str) -> str:
    """Return "a float", "an int"."""
    return f"{'an' if noun[:1] in 'aeio' else 'a'} {noun}"


def punctuated(text: object, mark: str = ".") -> str:
    """Return a text of somebody else's (an error, a reason) as a part of our sentence, with the
    mark that follows it.

    It may be a sentence of its own: it gets no second full stop, nor one behind "?".
    """
    said = str(text).rstrip()
    if mark == "." and said.endswith((".", "?", "!", "…")):
        return said
    return said.rstrip(".") + mark
