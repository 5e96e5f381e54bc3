"""What stands for a stored value where the value itself does not: in an output, in the record."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Artifact:
    """A stored value. `path` is relative to the store; `kind` names the value's Python type, for
    people; `python` is the version that pickled it, as "3.11"."""

    path: str
    sha256: str
    size_bytes: int
    kind: str
    python: str = ""  # of an older store: not known

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def shown(self) -> dict[str, Any]:
        """Return what people and programs are shown of it."""
        return {name: value for name, value in asdict(self).items() if name != "python"}


def artifact_of(wire: Any) -> Artifact | None:
    """Return the artifact that an output's JSON refers to, None for an inline value."""
    if isinstance(wire, dict) and wire.keys() == {"$artifact"}:
        return Artifact(**wire["$artifact"])
    return None
