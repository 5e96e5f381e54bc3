"""The types of what fixtures give that tests call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from orchestrator.definition.pipeline import Pipeline
from orchestrator.record.run import RunRecord

States = Callable[[RunRecord], dict[str, str]]


class WaitUntil(Protocol):
    """Waits until something holds; fails with the test when it takes too long."""

    def __call__(self, condition: Callable[[], object], within_s: float = ...) -> None: ...


class PipelineFrom(Protocol):
    """Makes a pipeline of the text of a Python file."""

    def __call__(self, source: str, params: Mapping[str, Any] | None = None) -> Pipeline: ...
