"""Phrases of which our texts are made."""

from __future__ import annotations

import pytest

from orchestrator.wording import size_text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1500, "1.5 kB"),
        (25_000_000, "25 MB"),
        (312_345_678, "312 MB"),
        (2_000_000_000, "2 GB"),
        (9e12, "9 TB"),
        (2e15, "2,000 TB"),
    ],
)
def test_sizes_have_a_unit_and_three_digits(count: float, text: str) -> None:
    assert size_text(count) == text
