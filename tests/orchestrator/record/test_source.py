"""The record of a run is the same from any source that has kept its events: here, rows of SQL
beside the ledger."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping

import pytest

from orchestrator.attempt_id import AttemptId
from orchestrator.ledger.entries import StepEntry, StepSpec
from orchestrator.ledger.events import Event, EventKind
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.past import Past
from orchestrator.ledger.states import Outcome, StepState
from orchestrator.ledger.values import RunUnknown
from orchestrator.record.as_json import record_json
from orchestrator.record.replay import replay_events
from orchestrator.record.run import read_record
from orchestrator.record.source import EventSource
from tests.support.runs import begin, start_graph

HASHES = ("run", "graph", "spec", "output", "past")


class Rows:
    """What is kept of runs, in tables of a database."""

    def __init__(self, ledger: Ledger, run_id: str) -> None:
        self._sql = sqlite3.connect(":memory:")
        self._sql.execute("create table kept (run, part, name, text)")
        self._sql.execute("create table events (id, run, kind, at_us, step, attempt, detail)")
        for part in HASHES:
            pairs = ledger.client.hgetall(ledger.key(run_id, part)).items()
            self._sql.executemany(
                "insert into kept values (?, ?, ?, ?)", [(run_id, part, *pair) for pair in pairs]
            )
        self._sql.executemany(
            "insert into events values (?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    event.id,
                    run_id,
                    event.kind.value,
                    event.at_us,
                    event.step,
                    event.attempt,
                    json.dumps(dict(event.fields)),
                )
                for event in ledger.events(run_id)
            ],
        )

    def _kept(self, run_id: str, part: str) -> dict[str, str]:
        return dict(
            self._sql.execute(
                "select name, text from kept where run = ? and part = ?", (run_id, part)
            )
        )

    def run_fields(self, run_id: str) -> Mapping[str, str]:
        if fields := self._kept(run_id, "run"):
            return fields
        raise RunUnknown(run_id)

    def entries(self, run_id: str) -> Mapping[str, StepEntry]:
        found = {
            step: StepEntry.from_json(text) for step, text in self._kept(run_id, "graph").items()
        }
        return dict(sorted(found.items(), key=lambda item: item[1].place))

    def specs(self, run_id: str) -> Mapping[str, StepSpec]:
        return {step: StepSpec.from_json(text) for step, text in self._kept(run_id, "spec").items()}

    def events(self, run_id: str, after: str = "0") -> Iterator[Event]:
        rows: Iterable[tuple[str, str, int, str, int, str]] = self._sql.execute(
            "select id, kind, at_us, step, attempt, detail from events where run = ? order by"
            " rowid",
            (run_id,),
        )
        for event_id, kind, at_us, step, attempt, detail in rows:
            yield Event(event_id, EventKind(kind), at_us, step, attempt, json.loads(detail))

    def outputs(self, run_id: str) -> Mapping[str, str]:
        return self._kept(run_id, "output")

    def past(self, run_id: str) -> Past:
        return Past.of(self._kept(run_id, "past"))

    def states(self, run_id: str) -> Mapping[str, tuple[StepState, int]]:
        return {}


@pytest.fixture
def run_id(ledger: Ledger) -> str:
    """A run with a retry, a failure, a cancelled step, a resume with another param, and an
    output."""
    run_id = start_graph(ledger, {"a": "", "b": "a", "c": "", "d": ""}, params='{"x":1}')
    ledger.commit(
        AttemptId(run_id, "a", 1), begin(ledger, run_id, "a"), "w", Outcome.FAILED, retry_in_s=0.0
    )
    ledger.advance_due(run_id)
    ledger.commit(
        AttemptId(run_id, "a", 2),
        begin(ledger, run_id, "a", 2),
        "w",
        Outcome.SUCCEEDED,
        output="[1,2]",
    )
    ledger.commit(AttemptId(run_id, "c", 1), begin(ledger, run_id, "c"), "w", Outcome.FAILED)
    ledger.cancel_steps(run_id, ["d"], "enough")
    ledger.commit(AttemptId(run_id, "b", 1), begin(ledger, run_id, "b"), "w", Outcome.FAILED)
    resets = [("b", 1), ("c", 0), ("d", 0)]
    ledger.resume(run_id, resets, fields={"params": '{"x":2}'}, detail={"params": {"x": 2}})
    begin(ledger, run_id, "c", 2)
    return run_id


def test_rows_of_sql_give_the_same_record_as_the_ledger(ledger: Ledger, run_id: str) -> None:
    rows: EventSource = Rows(ledger, run_id)

    assert read_record(rows, run_id) == read_record(ledger, run_id)
    assert record_json(read_record(rows, run_id)) == record_json(read_record(ledger, run_id))
    assert read_record(rows, run_id).steps["c"].state is StepState.RUNNING
    with pytest.raises(RunUnknown):
        read_record(rows, "no such run")


def test_rows_of_sql_are_judged_as_the_ledger_is(ledger: Ledger, run_id: str) -> None:
    rows = Rows(ledger, run_id)
    upstream = {step: tuple(spec.upstream) for step, spec in rows.specs(run_id).items()}
    rules = {step: entry.trigger for step, entry in rows.entries(run_id).items()}

    assert replay_events(list(rows.events(run_id)), upstream, rules).violations == []
