"""An error as the record keeps it, wherever it came from: an exception, a death, a lost lease."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.wording import LINE_CHARS


@dataclass(frozen=True, slots=True)
class ErrorCard:
    """`type` is "module:Class", or the class alone for Python's own and for deaths."""

    type: str
    message: str
    traceback: str = ""

    @classmethod
    def from_json(cls, card: Mapping[str, Any]) -> ErrorCard:
        """Raise TypeError or KeyError for anything but a card."""
        parts = card["type"], card["message"], card.get("traceback", "")
        if not all(isinstance(part, str) for part in parts):
            raise TypeError("an error card has texts")
        return cls(*parts)

    def to_json(self) -> dict[str, str]:
        return {"type": self.type, "message": self.message, "traceback": self.traceback}

    @property
    def kind(self) -> str:
        """Class without its module."""
        return self.type.rpartition(":")[2]

    @property
    def line(self) -> str:
        """Class and the first line of the message."""
        lines = self.message.strip().splitlines()
        return f"{self.kind}: {lines[0][:LINE_CHARS]}" if lines else self.kind

    def with_remark(self, remark: str) -> ErrorCard:
        return replace(self, message=f"{self.message} ({remark})")


def error_line(card: ErrorCard | None) -> str:
    """Return an error in one line."""
    return card.line if card else "no error was recorded"
