"""The record: events folded into attempts, logs, and values that come back as they went in."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.attempt_id import AttemptId
from orchestrator.error_card import ErrorCard
from orchestrator.ledger import reads as reads_module
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.states import Outcome, RunState, StepState
from orchestrator.ledger.values import RunUnknown
from orchestrator.record.run import complete, read_record, read_skeleton
from orchestrator.times import rfc3339
from tests.support.runs import begin, graph, start, start_graph

ODD_TEXT = 'naïve 漢字 🙂 \x00\x1b[31m \\ " / \u2028 end'
ODD_NAMES = ["a.b-c_d[0]", "[x]", "x[17].train-2", "1", "_" + "9" * 199, "[" * 199 + "z", "A" * 200]


def test_the_record_folds_events_into_attempts(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": "", "b": "a"})
    error = {"type": "ValueError", "message": ODD_TEXT, "traceback": "Traceback …"}
    token = begin(ledger, run_id, "a", worker="w1")
    ledger.commit(
        AttemptId(run_id, "a", 1),
        token,
        "w1",
        Outcome.FAILED,
        detail={"error": error},
        retry_in_s=0.0,
    )
    waiting = read_record(ledger, run_id)
    ledger.advance_due(run_id)
    token = begin(ledger, run_id, "a", 2, worker="w2")
    running = read_record(ledger, run_id)
    ledger.commit(AttemptId(run_id, "a", 2), token, "w2", Outcome.TIMED_OUT)
    record = read_record(ledger, run_id)

    events = {
        (event.kind, event.attempt): event for event in ledger.events(run_id) if event.step == "a"
    }
    at = {key: event.at_us for key, event in events.items()}
    assert waiting.steps["a"].state is StepState.RETRYING
    assert waiting.steps["a"].due_at_us == at["step.retrying", 1]
    assert running.steps["a"].state is StepState.RUNNING
    assert running.steps["a"].due_at_us is None
    assert (running.steps["a"].attempts[1].ended_at_us, running.steps["a"].attempts[1].outcome) == (
        None,
        None,
    )

    first, second = record.steps["a"].attempts
    assert (first.attempt, first.worker, first.outcome, first.error) == (
        1,
        "w1",
        Outcome.FAILED,
        ErrorCard(**error),
    )
    assert (second.attempt, second.worker, second.outcome, second.error) == (
        2,
        "w2",
        Outcome.TIMED_OUT,
        None,
    )
    assert (first.queued_at_us, first.started_at_us, first.ended_at_us) == (
        at["step.queued", 1], at["step.started", 1], at["step.retrying", 1]
    )  # fmt: skip
    assert (second.queued_at_us, second.started_at_us, second.ended_at_us) == (
        at["step.queued", 2], at["step.started", 2], at["step.failed", 2]
    )  # fmt: skip
    assert record.steps["a"].state is StepState.FAILED
    assert (record.steps["b"].state, record.steps["b"].because) == (StepState.UPSTREAM_FAILED, "a")
    assert (record.steps["b"].attempts, record.steps["b"].upstream) == ([], ("a",))


def test_the_record_has_the_times_and_the_end_of_the_run(ledger: Ledger) -> None:
    plan = graph({"b": "", "a": "b"}).plan()
    run_id, _ = start(ledger, plan, params='{"x":{"$tuple":[1,2]}}')
    skeleton = read_skeleton(ledger, run_id)
    assert (skeleton.state, list(skeleton.steps), skeleton.started_at_us) == (
        RunState.QUEUED,
        ["b", "a"],
        None,
    )

    for step in "ba":
        ledger.commit(
            AttemptId(run_id, step, 1),
            begin(ledger, run_id, step),
            "w",
            Outcome.SUCCEEDED,
            output=f'"{step}"',
        )
    record = read_record(ledger, run_id)

    at = {event.kind: event.at_us for event in ledger.events(run_id) if not event.step}
    assert (record.run_id, record.pipeline, record.state) == (run_id, "p", RunState.SUCCEEDED)
    assert record.params_wire == {"x": {"$tuple": [1, 2]}}
    assert (record.created_at_us, record.started_at_us, record.ended_at_us) == (
        at["run.created"], at["run.started"], at["run.succeeded"]
    )  # fmt: skip
    fields = ledger.run_fields(run_id)
    assert [int(fields[name]) for name in ("created_at", "started_at", "ended_at")] == list(
        at.values()
    )
    assert record.outputs == {"b": '"b"', "a": '"a"'}
    assert (record.steps["a"].pool, record.steps["a"].queue) == ("cpu", "cpu")


def test_a_record_told_bit_by_bit_is_the_record_read_at_once(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": "", "b": "a"})
    told = read_skeleton(ledger, run_id)
    last = "0"
    for step in "ab":
        ledger.commit(
            AttemptId(run_id, step, 1), begin(ledger, run_id, step), "w", Outcome.SUCCEEDED
        )
        new = ledger.wait_for_events(run_id, last, 5.0)
        told.apply(new)
        last = new[-1].id

    assert told == read_record(ledger, run_id)
    assert ledger.wait_for_events(run_id, last, 0.001) == []


def test_a_record_that_knows_the_first_events_is_completed(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": "", "b": "a"})
    told = read_skeleton(ledger, run_id)
    complete(ledger, told)
    assert told.steps["a"].state is StepState.QUEUED
    for step in "ab":
        ledger.commit(
            AttemptId(run_id, step, 1),
            begin(ledger, run_id, step),
            "w",
            Outcome.SUCCEEDED,
            output="[1]",
        )

    complete(ledger, told)

    assert told.outputs == {"a": "[1]", "b": "[1]"}
    assert told == read_record(ledger, run_id)
    complete(ledger, told)
    assert told == read_record(ledger, run_id)


def test_what_many_steps_say_is_kept_once(ledger: Ledger) -> None:
    wide = {f"w{number}": "root other" for number in range(100)}
    record = read_skeleton(ledger, start_graph(ledger, {"root": "", "other": "", **wide}))
    steps = [record.steps[step] for step in wide]

    assert len({id(step.upstream) for step in steps}) == 1
    assert len({id(text) for step in steps for text in (step.pool, step.queue)}) <= 2
    assert {id(name) for name in steps[0].upstream} <= {id(name) for name in record.steps}
    assert {*record.specs} == {*record.steps}
    assert record.specs["w1"].upstream == ["root", "other"]
    assert "nothing" not in record.specs


def test_waiting_for_events_ends_with_the_first_one(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": ""})
    last = list(ledger.events(run_id))[-1].id
    claim = threading.Timer(0.05, ledger.claim, (AttemptId(run_id, "a", 1), "c", "w"))
    claim.start()

    events = ledger.wait_for_events(run_id, last, 30.0)

    claim.join()
    assert [event.kind for event in events] == ["run.started", "step.started"]


def test_events_are_read_in_pages_without_loss(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = start_graph(ledger, {f"s{i}": "" for i in range(13)})
    at_once = list(ledger.events(run_id))

    for page in (1, 7, 14):
        monkeypatch.setattr(reads_module, "EVENTS_PAGE", page)
        assert list(ledger.events(run_id)) == at_once
    assert len(at_once) == 14
    assert list(ledger.events(run_id, at_once[4].id)) == at_once[5:]


def test_a_run_that_is_not_there_has_no_record(ledger: Ledger) -> None:
    with pytest.raises(RunUnknown):
        read_record(ledger, "gone")


def test_any_allowed_name_goes_through_a_whole_run(ledger: Ledger) -> None:
    names = ODD_NAMES
    run_id, chains = start(
        ledger,
        graph({name: names[:i][-1:] for i, name in enumerate(names)}).plan(),
        run_id="r.[0]_-",
    )

    assert [link.step for link in chains[0].links] == names
    for name in names:
        token = begin(ledger, run_id, name, worker="cpu-1@host.example")
        assert ledger.append_log(AttemptId(run_id, name, 1), token, [name], 10)
        ledger.commit(
            AttemptId(run_id, name, 1),
            token,
            "cpu-1@host.example",
            Outcome.SUCCEEDED,
            output=f'"{name}"',
        )

    record = read_record(ledger, run_id)
    assert record.state is RunState.SUCCEEDED
    assert list(record.steps) == names
    assert record.outputs == {name: f'"{name}"' for name in names}
    assert [ledger.log_lines(AttemptId(run_id, name, 1)) for name in names] == [
        [name] for name in names
    ]


def test_outputs_errors_and_logs_keep_every_character(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": ""})
    token = begin(ledger, run_id, "a")
    ledger.append_log(AttemptId(run_id, "a", 1), token, [ODD_TEXT, ""], 10)

    detail = {"error": {"type": "E", "message": ODD_TEXT, "traceback": ODD_TEXT}}
    ledger.commit(AttemptId(run_id, "a", 1), token, "w", Outcome.FAILED, detail=detail, output="")

    assert ledger.log_lines(AttemptId(run_id, "a", 1)) == [ODD_TEXT, ""]
    assert read_record(ledger, run_id).steps["a"].attempts[0].error == ErrorCard(**detail["error"])


def test_an_output_of_null_takes_no_room(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": "", "b": "", "c": ""})
    for step, output in (("a", "null"), ("b", ""), ("c", f'"{ODD_TEXT}"')):
        ledger.commit(
            AttemptId(run_id, step, 1),
            begin(ledger, run_id, step),
            "w",
            Outcome.SUCCEEDED,
            output=output,
        )

    assert ledger.outputs(run_id) == {"c": f'"{ODD_TEXT}"'}


def test_a_log_keeps_its_last_lines(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": ""})
    token = begin(ledger, run_id, "a")

    for start_at in range(0, 100, 7):
        assert ledger.append_log(
            AttemptId(run_id, "a", 1),
            token,
            [str(i) for i in range(start_at, min(100, start_at + 7))],
            10,
        )

    assert ledger.log_lines(AttemptId(run_id, "a", 1)) == [str(i) for i in range(90, 100)]


@pytest.mark.parametrize("pieces", [[3] * 20, [1, 30, 2], [40], [25, 25, 1], []])
def test_lines_keep_their_numbers_and_a_repeated_call_adds_none(
    ledger: Ledger, pieces: list[int]
) -> None:
    run_id = start_graph(ledger, {"a": ""})
    token = begin(ledger, run_id, "a")
    written = 0

    for count in pieces:
        lines = [str(number) for number in range(written, written + count)]
        kept = lines[-10:]  # more than that is not even sent
        for _ in range(2):
            before = written + count - len(kept)
            assert ledger.append_log(AttemptId(run_id, "a", 1), token, kept, 10, before=before)
        written += count

    log = ledger.log(AttemptId(run_id, "a", 1))
    assert log.dropped == max(0, written - 10)
    assert log.lines == tuple(str(number) for number in range(log.dropped, written))


def test_only_the_holder_of_the_token_writes_the_log(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": ""})
    assert not ledger.append_log(AttemptId(run_id, "a", 1), 0, ["before the claim"], 10)
    token = begin(ledger, run_id, "a")
    assert not ledger.append_log(AttemptId(run_id, "a", 1), token + 1, ["wrong token"], 10)
    assert not ledger.append_log(AttemptId(run_id, "a", 2), token, ["wrong attempt"], 10)
    assert ledger.append_log(AttemptId(run_id, "a", 1), token, ["mine"], 10)
    ledger.commit(AttemptId(run_id, "a", 1), token, "w", Outcome.SUCCEEDED)
    assert not ledger.append_log(AttemptId(run_id, "a", 1), token, ["after the commit"], 10)

    assert ledger.log_lines(AttemptId(run_id, "a", 1)) == ["mine"]


@given(at=st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC)))
def test_times_are_rfc_3339_to_the_microsecond(at: datetime) -> None:
    since = at - datetime(1970, 1, 1, tzinfo=UTC)
    text = rfc3339((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds)

    assert len(text) == len("2026-11-23T17:52:35.000001Z")
    assert text.endswith("Z")
    assert datetime.fromisoformat(text) == at


def test_no_time_is_no_text() -> None:
    assert rfc3339(None) is None
    assert rfc3339(0) == "1970-01-01T00:00:00.000000Z"
