"""A folder in which the `orchestrator` command is given, and what a record is checked by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.place import Place


@pytest.fixture
def place(tmp_path: Path, wait_until: Callable[..., None]) -> Iterator[Place]:
    """A folder without a configured server. At the end nothing runs in it."""
    made = Place(tmp_path / "place")
    yield made
    wait_until(lambda: not made.processes())


@pytest.fixture(scope="session")
def place_in() -> Callable[..., Place]:
    """Return a place in a folder, with variables of its own."""
    return Place


def _assert_exact(record: Mapping[str, Any]) -> None:
    """Every step ran once and succeeded, and none began before all its upstreams had ended."""
    steps = record["steps"]
    for name, step in steps.items():
        assert [attempt["outcome"] for attempt in step["attempts"]] == ["succeeded"], name
        began = step["attempts"][0]["started_at"]
        for upstream in step["upstream"]:
            assert began >= steps[upstream]["attempts"][-1]["ended_at"], (
                f"{name} began before {upstream} had ended"
            )
    assert record["state"] == "succeeded"


@pytest.fixture(scope="session")
def assert_exact() -> Callable[[Mapping[str, Any]], None]:
    """Check a record whose run succeeded as a whole."""
    return _assert_exact
