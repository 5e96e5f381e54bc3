"""Who holds an attempt: leases, what happens when they run out, attempts that are lost, given up,
or to be stopped."""

from __future__ import annotations

import pytest

from orchestrator.attempt_id import AttemptId
from orchestrator.error_card import ErrorCard
from orchestrator.ledger.events import Event
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.states import Outcome, StepState
from orchestrator.ledger.values import (
    Claim,
    Commit,
    ExpiredLease,
    OwnedAttempt,
    Refusal,
    Replaced,
    owner_of,
)
from orchestrator.record.run import read_record
from tests.support.runs import begin, events_of, heads, run_state, start_graph, states_of

GONE = {
    "error": {"type": "ProcessLost", "message": "killed by signal 9", "traceback": ""},
    "found": "process 7 is gone",
}


def claim(
    ledger: Ledger, run_id: str, step: str, attempt: int, owner: str, lease_s: float = 60.0
) -> Claim:
    """Claim for one process of a worker."""
    worker, _, process = owner.partition(" ")
    answer = ledger.claim(AttemptId(run_id, step, attempt), f"{process}{attempt}", worker, lease_s)
    assert isinstance(answer, Claim), answer
    return answer


def lapse(ledger: Ledger, run_id: str, step: str, attempt: int = 1, owner: str = "w") -> None:
    """Let the lease of an attempt run out."""
    ledger.renew([OwnedAttempt(AttemptId(run_id, step, attempt), owner)], 0.0)


def lose(ledger: Ledger, run_id: str, step: str, attempt: int, **shown) -> Replaced:
    answer = ledger.report_lost(AttemptId(run_id, step, attempt), GONE, **(shown or {"owner": "w"}))
    assert isinstance(answer, Replaced), answer
    return answer


def last_event(ledger: Ledger, run_id: str, event: str) -> Event:
    return [it for it in ledger.events(run_id) if it.kind == event][-1]


# -- leases ----------------------------------------------------------------------------------------


def test_a_claim_holds_the_step_for_its_lease(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": "", "b": ""})
    ledger.claim(AttemptId(run_id, "a", 1), "c", "w", 60.0)
    ledger.claim(AttemptId(run_id, "b", 1), "c", "v", 0.0)

    started = {
        event.step: event.at_us for event in ledger.events(run_id) if event.kind == "step.started"
    }
    report = ledger.advance_due(run_id)

    assert report.expired == (ExpiredLease("b", 1, "v", "c", started["b"], is_stopping=False),)
    assert {it.step: it.lease_until_us for it in ledger.leased(run_id)} == {
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
        (it.kind, it.attempt, it.fields)
        for it in ledger.events(run_id)
        if it.kind.endswith(".refused")
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


# -- lost attempts ---------------------------------------------------------------------------------


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
        it.fields["error"]["message"] for it in ledger.events(run_id) if it.kind == "step.failed"
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


# -- owners ----------------------------------------------------------------------------------------


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


# -- handing over ----------------------------------------------------------------------------------


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


# -- renewing --------------------------------------------------------------------------------------


def test_a_renewal_tells_which_attempts_are_to_be_stopped_and_why(ledger: Ledger) -> None:
    steps = [
        "runs",
        "cancelled",
        "replaced",
        "again",
        "taken",
        "failed",
        "done",
        "queued",
        "retrying",
        "lost",
    ]
    run_id = start_graph(ledger, dict.fromkeys(steps, ""), {}, {"lost": {"lost_attempts": 1}})
    mine, other = owner_of("w", "i", 1), owner_of("w", "i", 2)
    for step in steps:
        if step != "queued":
            token = claim(ledger, run_id, step, 1, other if step == "taken" else mine).token
        if step in ("failed", "done", "retrying"):
            outcome = Outcome.SUCCEEDED if step == "done" else Outcome.FAILED
            retry_in_s = 60.0 if step == "retrying" else None
            ledger.commit(AttemptId(run_id, step, 1), token, "w", outcome, retry_in_s=retry_in_s)
    ledger.cancel_steps(run_id, ["cancelled"], "no need")
    for step in ("replaced", "again", "lost"):
        lose(ledger, run_id, step, 1, owner=mine)
    claim(ledger, run_id, "again", 2, mine)
    held = {step: OwnedAttempt(AttemptId(run_id, step, 1), mine) for step in steps}

    answers = [ledger.renew(list(held.values()), 60.0) for _ in range(2)]

    # Who has ended its attempt itself may still be about to send what is next: it is left in peace.
    assert answers[0] == answers[1] == {
        held["cancelled"]: "cancelled",
        held["replaced"]: "fenced",
        held["again"]: "fenced",
        held["taken"]: "fenced",
        held["lost"]: "fenced",
    }  # fmt: skip


def test_a_renewal_prolongs_the_leases_of_its_own_attempts_alone(ledger: Ledger) -> None:
    runs = [start_graph(ledger, {"a": "", "b": ""}) for _ in range(2)]
    held = []
    for run_id in runs:
        claim(ledger, run_id, "a", 1, "w i.1.", 0.0)
        claim(ledger, run_id, "b", 1, "w i.2.", 0.0)
        held += [
            OwnedAttempt(AttemptId(run_id, "a", 1), "w i.1."),
            OwnedAttempt(AttemptId(run_id, "b", 1), "w i.1."),
        ]

    ledger.client.script_flush()
    answers = ledger.renew(held, 60.0)

    assert answers == {it: "fenced" for it in held if it.step == "b"}
    assert [[it.step for it in ledger.advance_due(run_id).expired] for run_id in runs] == [
        ["b"],
        ["b"],
    ]
    assert ledger.renew([], 60.0) == {}


def test_a_renewal_for_a_run_that_is_not_there_leaves_no_trace(ledger: Ledger) -> None:
    held = OwnedAttempt(AttemptId("gone", "a", 1), "w")

    assert ledger.renew([held], 60.0) == {held: "fenced"}
    ledger.report_stopped(held, {})
    assert list(ledger.client.scan_iter(f"{ledger.prefix}:*")) == []


# -- attempts that are to be stopped ---------------------------------------------------------------


def test_a_cancelled_attempt_keeps_its_lease_until_it_is_gone(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": "", "b": ""})
    for step in "ab":
        claim(ledger, run_id, step, 1, owner_of("w", "i", 1))
    ledger.cancel(run_id, "enough")
    held = OwnedAttempt(AttemptId(run_id, "a", 1), owner_of("w", "i", 1))

    assert [it.step for it in ledger.stopping(run_id)] == ["a", "b"]
    assert not ledger.advance_due(run_id).is_over
    ledger.report_stopped(
        OwnedAttempt(AttemptId(run_id, "b", 1), owner_of("w", "i", 2)), {"how": "it was another"}
    )
    ledger.report_stopped(held, {"how": "killed", "after_s": 0.5, "processes": 3})

    assert [it.step for it in ledger.stopping(run_id)] == ["b"]
    stopped = read_record(ledger, run_id).steps["a"].attempts[0].stopped
    assert (stopped["how"], stopped["after_s"], stopped["processes"]) == ("killed", 0.5, 3)


def test_a_cancelled_attempt_whose_worker_is_gone_is_over_when_somebody_says_that_its_lease_ran_out(
    ledger,
) -> None:
    run_id = start_graph(ledger, {"a": ""})
    token = begin(ledger, run_id, "a")
    ledger.cancel(run_id, "enough")
    assert isinstance(ledger.report_lost(AttemptId(run_id, "a", 1), GONE), Refusal)
    lapse(ledger, run_id, "a")

    report = ledger.advance_due(run_id)

    # Nothing is decided yet: while the server was away no worker could renew.
    assert ([(it.step, it.is_stopping) for it in report.expired], report.is_over) == (
        [("a", True)],
        False,
    )
    assert ledger.report_lost(AttemptId(run_id, "a", 1), GONE) == Replaced(StepState.CANCELLED, ())
    assert (ledger.advance_due(run_id).is_over, ledger.stopping(run_id)) == (True, [])
    assert last_event(ledger, run_id, "attempt.stopped").fields == {
        "how": "its worker is gone: the lease ran out", "worker": "w"
    }  # fmt: skip
    # Should it live after all, it is told to stop, is waited for again, and commits nothing.
    held = OwnedAttempt(AttemptId(run_id, "a", 1), "w")
    assert ledger.renew([held], 60.0) == {held: "cancelled"}
    assert [it.step for it in ledger.stopping(run_id)] == ["a"]
    assert isinstance(
        ledger.commit(AttemptId(run_id, "a", 1), token, "w", Outcome.SUCCEEDED), Refusal
    )


@pytest.mark.parametrize(
    ("end", "how"),
    [
        (
            lambda ledger, held: ledger.report_lost(
                AttemptId(held.run_id, "a", 1), GONE, owner=held.owner
            ),
            "its process died",
        ),
        (
            lambda ledger, held: ledger.hand_over(
                AttemptId(held.run_id, "a", 1), "", owner=held.owner
            ),
            "its worker ended",
        ),
        (
            lambda ledger, held: ledger.report_stopped(held, {"how": "alone"}, ended_alone=True),
            "alone",
        ),
    ],
    ids=["lost", "handed over", "refused"],
)
def test_a_cancelled_attempt_is_over_however_it_ends_and_that_is_told_once(
    ledger, end, how
) -> None:
    run_id = start_graph(ledger, {"a": ""})
    claim(ledger, run_id, "a", 1, owner_of("w", "i", 1))
    ledger.cancel(run_id, "enough")
    held = OwnedAttempt(AttemptId(run_id, "a", 1), owner_of("w", "i", 1))

    for _ in range(2):
        end(ledger, held)

    assert (ledger.stopping(run_id), ledger.advance_due(run_id).is_over) == ([], True)
    assert [
        event.fields["how"] for event in ledger.events(run_id) if event.kind == "attempt.stopped"
    ] == [how]
    # A renewal that was under way does not take the lease up again.
    assert ledger.renew([held], 60.0) == {held: "fenced"}
    assert ledger.stopping(run_id) == []


def test_an_attempt_that_ended_alone_is_no_news_unless_its_step_was_cancelled(ledger) -> None:
    run_id = start_graph(ledger, {"a": ""})
    token = claim(ledger, run_id, "a", 1, owner_of("w", "i", 1)).token
    held = OwnedAttempt(AttemptId(run_id, "a", 1), owner_of("w", "i", 1))
    before = events_of(ledger, run_id)

    ledger.report_stopped(held, {"how": "alone"}, ended_alone=True)
    assert events_of(ledger, run_id) == before
    ledger.commit(AttemptId(run_id, "a", 1), token, "w", Outcome.SUCCEEDED)
    ledger.report_stopped(held, {"how": "alone"}, ended_alone=True)

    assert "attempt.stopped" not in [event for event, _, _ in events_of(ledger, run_id)]


@pytest.mark.parametrize("fails", [True, False], ids=["upstream_failed", "skipped"])
def test_who_was_taken_over_stops_also_when_its_step_does_not_run_again(ledger, fails) -> None:
    """Its step failed behind its back, was resumed with what is above it, and that went
    otherwise."""
    rules = {"b": "all_success" if fails else "one_failed"}
    run_id = start_graph(ledger, {"a": "", "b": "a"}, rules, {"b": {"lost_attempts": 1}})
    outcomes = [Outcome.SUCCEEDED, Outcome.FAILED] if fails else [Outcome.FAILED, Outcome.SUCCEEDED]
    ledger.commit(AttemptId(run_id, "a", 1), begin(ledger, run_id, "a"), "w", outcomes[0])
    claim(ledger, run_id, "b", 1, owner_of("w", "i", 1))
    held = OwnedAttempt(AttemptId(run_id, "b", 1), owner_of("w", "i", 1))
    ledger.report_lost(AttemptId(run_id, "b", 1), GONE, owner=held.owner)
    ledger.resume(run_id, [("a", 0), ("b", 0)], again=["a"] if fails else [])
    ledger.commit(AttemptId(run_id, "a", 2), begin(ledger, run_id, "a", 2), "w", outcomes[1])

    assert states_of(ledger, run_id)["b"] == ("upstream_failed" if fails else "skipped")
    assert ledger.renew([held], 60.0) == {held: "fenced"}


def test_an_attempt_that_failed_behind_its_workers_back_commits_nothing_more(
    ledger: Ledger,
) -> None:
    run_id = start_graph(ledger, {"a": ""}, {}, {"a": {"lost_attempts": 1}})
    token = begin(ledger, run_id, "a")
    lapse(ledger, run_id, "a")
    ledger.report_lost(AttemptId(run_id, "a", 1), GONE)

    for outcome in (Outcome.SUCCEEDED, Outcome.FAILED):
        assert isinstance(ledger.commit(AttemptId(run_id, "a", 1), token, "w", outcome), Refusal)
    assert [event for event, _, _ in events_of(ledger, run_id)].count("commit.refused") == 2
