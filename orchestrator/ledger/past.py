"""What resumes have replaced in a run, so that the record of earlier attempts stays true (`past` in
`lua/keys.lua`)."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.ledger.entries import StepSpec


@dataclass(frozen=True)
class Past:
    """What resumes have replaced. Of params and specs, JSON texts by the number of the resume until
    which they stood; of outputs, the JSON text by step and attempt."""

    params: Mapping[int, str] = field(default_factory=dict)
    specs: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    outputs: Mapping[tuple[str, int], str] = field(default_factory=dict)

    @classmethod
    def of(cls, raw: Mapping[str, str]) -> Past:
        """Return the past that a run's hash `past` holds."""
        params: dict[int, str] = {}
        specs: dict[str, dict[int, str]] = defaultdict(dict)
        outputs: dict[tuple[str, int], str] = {}
        for name, text in raw.items():
            kind, number, *step = name.split(" ", 2)
            if kind == "params":
                params[int(number)] = text
            elif kind == "spec":
                specs[step[0]][int(number)] = text
            else:
                outputs[step[0], int(number)] = text
        return cls(params, dict(specs), outputs)

    def params_at(self, resumes: int) -> dict[str, Any] | None:
        """Return the params, in the wire form, after that many resumes; None if they are those of
        now."""
        text = _standing_at(self.params, resumes)
        return None if text is None else json.loads(text)

    def spec_at(self, step: str, resumes: int) -> StepSpec | None:
        """Return the spec of a step after that many resumes; None if it is the one of now."""
        text = _standing_at(self.specs.get(step, {}), resumes)
        return None if text is None else StepSpec.from_json(text)


def _standing_at(texts: Mapping[int, str], resumes: int) -> str | None:
    until = min((number for number in texts if number > resumes), default=None)
    return None if until is None else texts[until]
