"""The step that every benchmark runs: it does nothing, so that only the orchestration costs
time."""

from __future__ import annotations


def noop() -> None:
    return None
