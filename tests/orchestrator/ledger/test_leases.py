"""Who holds an attempt: leases, what happens when they run out, attempts that are lost, given up,
or to be stopped."""

from __future__ import annotations

import pytest

from orchestrator.attempt_id import AttemptId
from orchestrator.error_card import ErrorCard
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.states import Outcome, StepState
from orchestrator.ledger.values import (
    Commit,
    ExpiredLease,
    OwnedAttempt,
    Refusal,
    Replaced,
    owner_of,
)
from orchestrator.record.run import read_record
from tests.support.attempts import GONE, claim, lapse, last_event, lose
from tests.support.runs import begin, events_of, heads, run_state, start_graph, states_of


def test_a_claim_holds_the_step_for_its_lease(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": "", "b": ""})
    ledger.claim(AttemptId(run_id, "a", 1), "c", "w", 60.0)
    ledger.claim(AttemptId(run_id, "b", 1), "c", "v", 0.0)

    started = {
        event.step: event.at_us for event in ledger.events(run_id) if event.kind == "step.started"
    }
    report = ledger.advance_due(run_id)

    assert report.expired == (ExpiredLease("b", 1, "v", "c", started["b"], is_stopping=False),)
    assert {attempt.step: attempt.lease_until_us for attempt in ledger.leased(run_id)} == {
        "a": started["a"] + 60_000_000, "b": started["b"]
    }  # fmt: skip
    assert report.ready == ()
    assert states_of(ledger, run_id) == {"a": "running", "b": "running"}


def test_nobody_takes_over_before_the_lease_has_run_out(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": ""})
    begin(ledger, run_id, "a")

    assert ledger.report_lost(AttemptId(run_id, "a", 1), GONE) == Refusal(
        "the attempt is held by another"
    )
    lapse(ledger, run_id, "a")
    ledger.renew([OwnedAttempt(AttemptId(run_id, "a", 1), "w")], 60.0)
    assert ledger.report_lost(AttemptId(run_id, "a", 1), GONE) == Refusal(
        "the attempt is held by another"
    )
    lapse(ledger, run_id, "a")
    answer = ledger.report_lost(AttemptId(run_id, "a", 1), GONE)

    assert isinstance(answer, Replaced)
    assert (answer.state, [chain.links[0][:2] for chain in answer.ready]) == (
        StepState.QUEUED,
        [("a", 2)],
    )
    assert events_of(ledger, run_id)[-2:] == [("attempt.lost", "a", 1), ("step.queued", "a", 2)]


def test_of_many_who_see_a_lease_run_out_one_sends_the_message(ledger: Ledger, at_once) -> None:
    run_id = start_graph(ledger, {"a": ""})
    begin(ledger, run_id, "a")
    lapse(ledger, run_id, "a")

    answers = at_once(
        lambda own, _: [
            own.report_lost(AttemptId(run_id, it.step, it.attempt), GONE)
            for it in own.advance_due(run_id).expired
        ]
    )

    assert [isinstance(it, Replaced) for each in answers for it in each].count(True) == 1
    assert [event for event, _, _ in events_of(ledger, run_id)].count("attempt.lost") == 1


def test_a_worker_that_was_cut_off_may_commit_if_nobody_took_over(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": ""})
    token = begin(ledger, run_id, "a")
    lapse(ledger, run_id, "a")
    assert ledger.advance_due(run_id).expired

    assert isinstance(
        ledger.commit(AttemptId(run_id, "a", 1), token, "w", Outcome.SUCCEEDED), Commit
    )
    assert run_state(ledger, run_id) == "succeeded"
    assert isinstance(ledger.report_lost(AttemptId(run_id, "a", 1), GONE), Refusal)


@pytest.mark.parametrize("has_begun", [False, True])
def test_whoever_was_replaced_neither_commits_nor_logs_and_both_are_recorded(
    ledger: Ledger, has_begun: bool
) -> None:
    run_id = start_graph(ledger, {"a": ""})
    old = begin(ledger, run_id, "a")
    lose(ledger, run_id, "a", 1)
    if has_begun:
        begin(ledger, run_id, "a", 2)

    for outcome in (Outcome.SUCCEEDED, Outcome.FAILED):
        assert isinstance(
            ledger.commit(AttemptId(run_id, "a", 1), old, "w", outcome, output='"late"'), Refusal
        )
    assert not ledger.append_log(AttemptId(run_id, "a", 1), old, ["late"], 10)
    assert not ledger.append_log(AttemptId(run_id, "a", 2), old, ["late"], 10)

    state = "running" if has_begun else "queued"
    refusals = [
        (event.kind, event.attempt, event.fields)
        for event in ledger.events(run_id)
        if event.kind.endswith(".refused")
    ]
    assert refusals == [
        ("commit.refused", 1, {"outcome": "succeeded", "state": state, "token": old}),
        ("commit.refused", 1, {"outcome": "failed", "state": state, "token": old}),
        ("log.refused", 1, {"state": state, "token": old}),
        ("log.refused", 2, {"state": state, "token": old}),
    ]
    assert (
        ledger.outputs(run_id),
        ledger.log_lines(AttemptId(run_id, "a", 1)),
        ledger.log_lines(AttemptId(run_id, "a", 2)),
    ) == ({}, [], [])
    assert states_of(ledger, run_id) == {"a": state}


def test_a_step_fails_at_the_third_attempt_that_it_loses_and_says_of_what(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": "", "b": "a", "tidy": "a"}, {"tidy": "always"})

    for attempt in (1, 2):
        begin(ledger, run_id, "a", attempt)
        assert heads(lose(ledger, run_id, "a", attempt).ready) == ["a"]
        assert last_event(ledger, run_id, "attempt.lost").fields == {
            "outcome": "lost", **GONE, "lost": attempt, "budget": 3
        }  # fmt: skip
    begin(ledger, run_id, "a", 3)
    answer = lose(ledger, run_id, "a", 3)

    assert (answer.state, heads(answer.ready)) == (StepState.FAILED, ["tidy"])
    assert states_of(ledger, run_id) == {"a": "failed", "b": "upstream_failed", "tidy": "queued"}
    failed = last_event(ledger, run_id, "step.failed").fields
    words = "killed by signal 9 (lost attempt 3 of 3: it is not tried again)"
    assert failed == {
        "outcome": "lost",
        **GONE,
        "lost": 3,
        "budget": 3,
        "error": {**GONE["error"], "message": words},
    }
    attempts = read_record(ledger, run_id).steps["a"].attempts
    assert [attempt.outcome for attempt in attempts] == [Outcome.LOST] * 3
    assert attempts[-1].error == ErrorCard(**failed["error"])


def test_a_step_may_lose_as_many_attempts_as_its_options_say(ledger: Ledger) -> None:
    run_id = start_graph(
        ledger,
        {"one": "", "five": ""},
        {},
        {"one": {"lost_attempts": 1}, "five": {"lost_attempts": 5}},
    )

    begin(ledger, run_id, "one")
    lose(ledger, run_id, "one", 1)
    for attempt in range(1, 6):
        assert states_of(ledger, run_id)["five"] == "queued"
        begin(ledger, run_id, "five", attempt)
        lose(ledger, run_id, "five", attempt)

    assert states_of(ledger, run_id) == {"one": "failed", "five": "failed"}
    errors = [
        event.fields["error"]["message"]
        for event in ledger.events(run_id)
        if event.kind == "step.failed"
    ]
    assert errors[0] == "killed by signal 9"  # there is no number to tell
    assert errors[1].endswith("(lost attempt 5 of 5: it is not tried again)")


def test_lost_attempts_do_not_count_against_the_retries(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": ""})
    begin(ledger, run_id, "a")
    lose(ledger, run_id, "a", 1)
    second = claim(ledger, run_id, "a", 2, "w i.1.")
    ledger.commit(AttemptId(run_id, "a", 2), second.token, "w", Outcome.FAILED, retry_in_s=0.0)
    ledger.advance_due(run_id)
    third = claim(ledger, run_id, "a", 3, "w i.1.")
    lose(ledger, run_id, "a", 3)

    assert (
        second.uncounted,
        third.uncounted,
        claim(ledger, run_id, "a", 4, "w i.1.").uncounted,
    ) == (1, 1, 2)
    assert ledger.uncounted(run_id, "a") == 2


def test_what_is_told_of_a_loss_keeps_every_value(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": ""}, {}, {"a": {"lost_attempts": 2}})
    odd = 'quote " brace }} \\ \ud800 漢 🙂 \x00'
    detail = {
        "error": {"message": odd, "type": odd, "traceback": ""},
        "at_us": 1795527962651573, "processes": [], "nothing": {}, "found": '"}}',
    }  # fmt: skip

    for attempt in (1, 2):
        begin(ledger, run_id, "a", attempt)
        ledger.report_lost(AttemptId(run_id, "a", attempt), detail, owner="w")

    kept = {"outcome": "lost", **detail, "budget": 2}
    assert last_event(ledger, run_id, "attempt.lost").fields == {**kept, "lost": 1}
    told = f"{odd} (lost attempt 2 of 2: it is not tried again)"
    assert last_event(ledger, run_id, "step.failed").fields == {
        **kept, "lost": 2, "error": {**detail["error"], "message": told}
    }  # fmt: skip


def test_a_loss_may_be_told_without_an_error(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": ""}, {}, {"a": {"lost_attempts": 2}})
    for attempt in (1, 2):
        begin(ledger, run_id, "a", attempt)
        ledger.report_lost(AttemptId(run_id, "a", attempt), {"found": "x"}, owner="w")

    assert last_event(ledger, run_id, "step.failed").fields == {
        "outcome": "lost",
        "found": "x",
        "lost": 2,
        "budget": 2,
    }


def test_a_loss_that_is_told_twice_counts_once(ledger: Ledger) -> None:
    run_id = start_graph(
        ledger, {"a": "", "tidy": "a"}, {"tidy": "always"}, {"a": {"lost_attempts": 2}}
    )
    for attempt, told in ((1, ["a"]), (2, ["tidy"])):
        token = begin(ledger, run_id, "a", attempt)
        answers = [lose(ledger, run_id, "a", attempt, token=token) for _ in range(2)]
        assert answers[0] == answers[1]
        assert heads(answers[0].ready) == told

    assert [event for event, _, _ in events_of(ledger, run_id)].count("attempt.lost") == 1


def test_a_process_that_died_before_it_claimed_lost_a_message_and_no_attempt(
    ledger: Ledger,
) -> None:
    run_id = start_graph(ledger, {"a": ""})
    sent_at_us = ledger.sent_at_us(AttemptId(run_id, "a", 1), "cpu", 3)

    answer = lose(ledger, run_id, "a", 1, owner=owner_of("w", "i", 1))

    assert [chain.links[0][:2] for chain in answer.ready] == [("a", 1)]
    assert events_of(ledger, run_id)[-1] == ("message.lost", "a", 1)
    assert ledger.sent_at_us(AttemptId(run_id, "a", 1), "cpu", 3) > sent_at_us
    assert claim(ledger, run_id, "a", 1, "w i.2.").uncounted == 0


def test_who_knows_nothing_of_a_queued_step_is_not_believed(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": "", "b": "a"})
    before = events_of(ledger, run_id)

    for step, attempt in (("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1), ("no", 1)):
        assert isinstance(ledger.report_lost(AttemptId(run_id, step, attempt), GONE), Refusal)
    assert events_of(ledger, run_id) == before


@pytest.mark.parametrize(
    ("owner", "is_it"),
    [
        (owner_of("w1", "i7", 12), True),
        ("w1", True),
        (owner_of("w1", "i7", 1), False),
        (owner_of("w1", "i7", 2), False),
        (owner_of("w1", "i8", 12), False),
        (owner_of("w", "i7", 12), False),
        ("w", False),
        ("w11", False),
    ],
)
def test_an_attempt_belongs_to_one_process_of_one_worker_of_one_start(
    ledger: Ledger, owner: str, is_it: bool
) -> None:
    run_id = start_graph(ledger, {"a": "", "b": "", "c": ""})
    for step in "abc":
        claim(ledger, run_id, step, 1, owner_of("w1", "i7", 12))

    assert (
        isinstance(ledger.report_lost(AttemptId(run_id, "a", 1), GONE, owner=owner), Replaced)
        == is_it
    )
    assert (
        isinstance(ledger.hand_over(AttemptId(run_id, "b", 1), "ends", owner=owner), Replaced)
        == is_it
    )
    assert (
        isinstance(ledger.commit(AttemptId(run_id, "c", 1), 0, owner, Outcome.TIMED_OUT), Commit)
        == is_it
    )
    assert states_of(ledger, run_id) == (
        {"a": "queued", "b": "queued", "c": "failed"} if is_it else dict.fromkeys("abc", "running")
    )


def test_an_attempt_that_is_handed_over_counts_neither_as_failure_nor_as_lost(
    ledger: Ledger,
) -> None:
    run_id = start_graph(ledger, {"a": ""}, {}, {"a": {"lost_attempts": 1}})

    for attempt in range(1, 6):
        given = claim(ledger, run_id, "a", attempt, "w i.1.")
        assert given.uncounted == attempt - 1
        shown = {"token": given.token} if attempt % 2 else {"owner": "w i.1."}
        answers = [
            ledger.hand_over(AttemptId(run_id, "a", attempt), "its worker had to end", **shown)
            for _ in range(2)
        ]
        assert answers[0] == answers[1]
        assert [chain.links[0][:2] for chain in answers[0].ready] == [("a", attempt + 1)]

    assert last_event(ledger, run_id, "attempt.handed_over").fields == {
        "outcome": "handed_over", "reason": "its worker had to end"
    }  # fmt: skip
    record = read_record(ledger, run_id)
    assert [attempt.outcome for attempt in record.steps["a"].attempts] == [
        *[Outcome.HANDED_OVER] * 5,
        None,
    ]
    assert record.repairs == 0


def test_an_attempt_that_is_handed_over_before_it_was_claimed_gives_its_message_back(
    ledger: Ledger,
) -> None:
    run_id = start_graph(ledger, {"a": ""})

    answer = ledger.hand_over(AttemptId(run_id, "a", 1), "its worker had to end", owner="w i.1.")

    assert isinstance(answer, Replaced)
    assert [chain.links[0][:2] for chain in answer.ready] == [("a", 1)]
    assert events_of(ledger, run_id)[-1] == ("message.returned", "a", 1)
    assert read_record(ledger, run_id).repairs == 0
    assert claim(ledger, run_id, "a", 1, "w i.1.").uncounted == 0


def test_only_its_holder_hands_an_attempt_over(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": ""})
    token = begin(ledger, run_id, "a")
    lapse(ledger, run_id, "a")
    ledger.renew([OwnedAttempt(AttemptId(run_id, "a", 1), "w")], 60.0)

    for shown in ({"token": token + 1}, {"owner": "v"}, {}):
        assert isinstance(ledger.hand_over(AttemptId(run_id, "a", 1), "why", **shown), Refusal)
    assert states_of(ledger, run_id) == {"a": "running"}
