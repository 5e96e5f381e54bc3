"""Steps that are cancelled one by one, while their run goes on."""

from __future__ import annotations

import pytest

from orchestrator.attempt_id import AttemptId
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.states import Outcome
from orchestrator.ledger.values import OwnedAttempt, Refusal, StepUnknown
from orchestrator.record.run import read_record
from orchestrator.record.verification import verify_run
from tests.support.runs import (
    SaidTwice,
    begin,
    counts_in,
    events_of,
    heads,
    run_state,
    start_graph,
    states_of,
)


def test_for_what_is_below_it_a_cancelled_step_has_failed(ledger: Ledger) -> None:
    upstream = {"a": "", "b": "a", "c": "b", "tidy": "a", "x": ""}
    run_id = start_graph(ledger, upstream, {"tidy": "one_failed"})

    count, chains = ledger.cancel_steps(run_id, ["a"], "no need")

    assert (count, heads(chains)) == (1, ["tidy"])
    assert states_of(ledger, run_id) == {
        "a": "cancelled", "b": "upstream_failed", "c": "upstream_failed", "tidy": "queued",
        "x": "queued"
    }  # fmt: skip
    assert run_state(ledger, run_id) == "queued"
    record = read_record(ledger, run_id)
    assert (record.steps["a"].cancel_reason, record.steps["b"].because) == ("no need", "a")
    assert isinstance(ledger.claim(AttemptId(run_id, "a", 1), "c", "w"), Refusal)
    assert verify_run(ledger, run_id).violations == ()


def test_a_run_of_which_steps_were_cancelled_ends_cancelled_unless_others_failed(
    ledger: Ledger,
) -> None:
    for outcome, state in ((Outcome.SUCCEEDED, "cancelled"), (Outcome.FAILED, "failed")):
        run_id = start_graph(ledger, {"a": "", "b": "", "c": "a"})
        ledger.cancel_steps(run_id, ["a"], "no need")
        ledger.commit(AttemptId(run_id, "b", 1), begin(ledger, run_id, "b"), "w", outcome)
        assert run_state(ledger, run_id) == state
        assert verify_run(ledger, run_id).violations == ()


def test_the_last_open_steps_take_the_run_with_them(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": "", "b": "a"})

    assert ledger.cancel_steps(run_id, ["b", "a"], "no need") == (2, ())
    assert (run_state(ledger, run_id), events_of(ledger, run_id)[-1]) == (
        "cancelled",
        ("run.cancelled", "", 0),
    )


def test_only_what_has_not_ended_is_cancelled_and_each_step_once(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"done": "", "a": "", "b": "a", "x": ""})
    ledger.commit(
        AttemptId(run_id, "done", 1), begin(ledger, run_id, "done"), "w", Outcome.SUCCEEDED
    )
    before = events_of(ledger, run_id)

    assert ledger.cancel_steps(run_id, ["done"], "no need") == (0, ())
    assert events_of(ledger, run_id) == before
    assert ledger.cancel_steps(run_id, ["a", "done", "a"], "no need") == (1, ())
    assert ledger.cancel_steps(run_id, ["a", "b"], "no need") == (0, ())
    assert counts_in(ledger.run_fields(run_id)) == {
        "succeeded": 1,
        "cancelled": 1,
        "upstream_failed": 1,
        "queued": 1,
    }


def test_with_one_step_unknown_none_is_cancelled(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": "", "b": ""})
    before = events_of(ledger, run_id), ledger.run_fields(run_id), states_of(ledger, run_id)

    with pytest.raises(StepUnknown, match=r"^nonsense$"):
        ledger.cancel_steps(run_id, ["a", "nonsense", "b"], "no need")

    assert (
        events_of(ledger, run_id),
        ledger.run_fields(run_id),
        states_of(ledger, run_id),
    ) == before
    with pytest.raises(StepUnknown):
        ledger.cancel_steps("gone", ["a"], "no need")
    assert verify_run(ledger, run_id).violations == ()


def test_workers_that_run_what_is_cancelled_are_woken(ledger: Ledger) -> None:
    run_id = start_graph(ledger, dict.fromkeys("abcd", ""))
    for step, worker in (("a", "w1"), ("b", "w2"), ("c", "w3")):
        begin(ledger, run_id, step, worker=worker)

    ledger.cancel_steps(run_id, ["a", "d"], "no need")
    woken = {
        worker for worker in ("w1", "w2", "w3") if ledger.client.delete(ledger.nudge_key(worker))
    }
    ledger.cancel(run_id, "enough")
    woken_last = {
        worker for worker in ("w1", "w2", "w3") if ledger.client.delete(ledger.nudge_key(worker))
    }

    assert (woken, woken_last) == ({"w1"}, {"w2", "w3"})


def test_an_attempt_whose_step_is_cancelled_commits_nothing_and_may_log_its_last_words(
    ledger: Ledger,
) -> None:
    run_id = start_graph(ledger, {"a": "", "b": ""})
    token = begin(ledger, run_id, "a")
    ledger.cancel_steps(run_id, ["a"], "no need")

    assert ledger.append_log(AttemptId(run_id, "a", 1), token, ["asked to stop"], 10)
    assert not ledger.append_log(AttemptId(run_id, "a", 1), token + 1, ["another"], 10)
    assert isinstance(
        ledger.commit(AttemptId(run_id, "a", 1), token, "w", Outcome.SUCCEEDED, output="1"), Refusal
    )
    held = OwnedAttempt(AttemptId(run_id, "a", 1), "w")
    assert ledger.renew([held], 60.0) == {held: "cancelled"}
    assert (ledger.outputs(run_id), ledger.log_lines(AttemptId(run_id, "a", 1))) == (
        {},
        ["asked to stop"],
    )


def test_a_step_that_was_never_claimed_has_no_log(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": ""})
    ledger.cancel_steps(run_id, ["a"], "no need")

    assert not ledger.append_log(AttemptId(run_id, "a", 1), 0, ["who am I"], 10)


def test_a_cancel_whose_answer_was_lost_is_answered_alike(ledger: Ledger) -> None:
    twice = SaidTwice(ledger.client, ledger.prefix)
    run_id = start_graph(ledger, {"a": "", "b": "a", "c": ""}, {"b": "always"})
    begin(ledger, run_id, "a")
    begin(ledger, run_id, "c", worker="w2")

    count, chains = twice.cancel_steps(run_id, ["a"], "no need")

    assert (count, heads(chains)) == (1, ["b"])
    assert ledger.client.delete(ledger.nudge_key("w"))
    assert twice.cancel(run_id, "enough") == 2
    assert ledger.client.delete(ledger.nudge_key("w2"))
    assert ledger.cancel(run_id, "enough") is None
    assert [event for event, _, _ in events_of(ledger, run_id)].count("run.cancelled") == 1
