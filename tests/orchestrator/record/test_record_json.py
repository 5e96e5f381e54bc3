"""The JSON of a run's record."""

from __future__ import annotations

from orchestrator.definition.wire import to_wire
from orchestrator.ledger.states import Outcome, RunState, StepState
from orchestrator.record.as_json import record_json
from orchestrator.record.run import AttemptRecord, RunRecord, StepRecord


def test_params_are_plain_json() -> None:
    params = to_wire({"pair": (1, "a"), "by_number": {1: (2,)}, "n": None, "rate": float("inf")})
    record = RunRecord("run", "pipeline", RunState.QUEUED, params, 0, None, None, None, {}, {})

    assert record_json(record)["params"] == {
        "pair": [1, "a"],
        "by_number": {"1": [2]},
        "n": None,
        "rate": "inf",
    }


def test_what_went_wrong_stands_in_the_json_only_where_there_is_something() -> None:
    stopped = {"how": "killed after a grace of 5 s", "after_s": 5.1, "at_us": 2}
    made = AttemptRecord(1, 0, "w", 0, 1, Outcome.CANCELLED, None, stopped)
    step = StepRecord(StepState.CANCELLED, attempts=[made], cancel_reason="enough")
    told = record_json(
        RunRecord("r", "p", RunState.CANCELLED, {}, 0, 0, 1, "enough", {"a": step}, {}, 2, 1)
    )

    assert (told["repairs"], told["resumes"]) == (2, 1)
    assert told["steps"]["a"]["cancel_reason"] == "enough"
    assert told["steps"]["a"]["attempts"][0]["stopped"] == {
        "how": "killed after a grace of 5 s",
        "after_s": 5.1,
        "at": "1970-01-01T00:00:00.000002Z",
    }
    calm = record_json(
        RunRecord("r", "p", RunState.QUEUED, {}, 0, None, None, None, {"a": StepRecord()}, {})
    )
    assert {"repairs", "resumes", "cancel_reason"}.isdisjoint(calm)
    assert "cancel_reason" not in calm["steps"]["a"]
