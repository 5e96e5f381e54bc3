"""Pages: how much one call of the ledger does, and how names of many steps are kept.

A call blocks the server, and with it all other runs, so none looks at more steps than a page; what
is more stands in the front of the run (`lua/front.lua`), and whoever asked goes on with it. Lists
of steps are kept in pages, too, for to decode a long one takes as long as to do a page of work.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import TypeVar

from orchestrator.ledger.entries import json_text, parsed_json

PAGE = 100
"""Steps that a call looks at, and names in a list; docs/benchmarks.md has what calls take. Part of
the format of a run: a list whose page is not full has no further one."""

T = TypeVar("T")


def in_pages(items: Sequence[T], page: int) -> Iterator[Sequence[T]]:
    """Return the items in pages, none for no items."""
    return (items[begin : begin + page] for begin in range(0, len(items), page))


def list_fields(step: str, text: str, page: int) -> Iterator[tuple[str, str]]:
    """Return the fields of a hash that keep a list of a step's (JSON): one for each page."""
    if len(text) < 4 * page:  # at least four bytes a name
        return iter([(step, text)])
    names = in_pages(json.loads(text), page)
    return ((list_field(step, number), json_text(it)) for number, it in enumerate(names, 1))


def list_in(raw: Mapping[str, str], step: str) -> str:
    """Return a list of a step's (JSON) from the fields that keep it, "" for none."""
    text = raw.get(step, "")
    if list_field(step, 2) not in raw:
        return text
    names = list[str]()
    for number in count(1):
        if not (page := raw.get(list_field(step, number))):
            return json_text(names)
        names += parsed_json(page)
    raise AssertionError("count has no end")


def list_field(step: str, page: int) -> str:
    """Return the field of a hash that keeps a page of a step's list."""
    return step if page == 1 else f"{step}\0{page}"
