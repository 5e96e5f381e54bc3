"""The JSON of a run's record."""

from __future__ import annotations

from orchestrator.cli.record_json import record_json
from orchestrator.definition.wire import to_wire
from orchestrator.ledger.record import RunRecord
from orchestrator.ledger.states import RunState


def test_params_are_plain_json() -> None:
    params = to_wire({"pair": (1, "a"), "by_number": {1: (2,)}, "n": None, "rate": float("inf")})
    record = RunRecord("run", "pipeline", RunState.QUEUED, params, 0, None, None, None, {}, {})

    assert record_json(record)["params"] == {"pair": [1, "a"], "by_number": {"1": [2]}, "n": None, "rate": "inf"}
