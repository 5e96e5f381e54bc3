"""What the steps of a resumed run have left in their folder."""

from __future__ import annotations

from collections import Counter


def ran(place):
    """Return how often each step ran since the last look."""
    path = place.folder / "ran"
    words = path.read_text().split() if path.exists() else []
    path.write_text("")
    return Counter(words)
