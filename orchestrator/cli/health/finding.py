"""One thing that `doctor` has looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. A fault keeps runs from working; a warning may be what you want."""

    level: Literal["ok", "warning", "fault"]
    what: str
    found: str
