"""One attempt at a time: claims, tokens, commits, and messages that come twice, late or astray."""

from __future__ import annotations

import pytest

from orchestrator.attempt_id import AttemptId
from orchestrator.ledger.entries import CallKind, StepSpec
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.states import Outcome, StepState
from orchestrator.ledger.values import Claim, Commit, Refusal, Replaced
from orchestrator.record.verification import verify_run
from tests.support.runs import age, begin, events_of, heads, run_state, start_graph, states_of

SUCCEEDED, FAILED = Outcome.SUCCEEDED, Outcome.FAILED


def commit(
    ledger: Ledger, run_id: str, step: str, token: int, outcome: Outcome = SUCCEEDED, **more
) -> Commit | Refusal:
    return ledger.commit(
        AttemptId(run_id, step, more.pop("attempt", 1)),
        token,
        more.pop("worker", "w"),
        outcome,
        **more,
    )


def test_of_many_who_claim_an_attempt_one_gets_it(ledger: Ledger, at_once) -> None:
    run_id = start_graph(ledger, {"a": ""})

    claims = at_once(
        lambda own, number: own.claim(AttemptId(run_id, "a", 1), f"claim-{number}", f"w{number}")
    )

    assert [type(claim) for claim in claims].count(Claim) == 1
    assert [event for event, _, _ in events_of(ledger, run_id)].count("step.started") == 1


def test_the_same_claim_said_twice_gets_the_same_answer(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": ""})

    first = ledger.claim(AttemptId(run_id, "a", 1), "claim", "w")
    second = ledger.claim(AttemptId(run_id, "a", 1), "claim", "w")

    assert isinstance(first, Claim)
    assert first == second
    assert isinstance(ledger.claim(AttemptId(run_id, "a", 1), "claim", "other"), Refusal)
    assert len(events_of(ledger, run_id)) == 4


@pytest.mark.parametrize("attempt", [0, 2])
def test_a_claim_of_another_attempt_is_refused(ledger: Ledger, attempt: int) -> None:
    run_id = start_graph(ledger, {"a": ""})

    refusal = ledger.claim(AttemptId(run_id, "a", attempt), "claim", "w")

    assert refusal == Refusal(f"attempt {attempt} is not current, the step is queued at attempt 1")


def test_a_message_for_a_step_that_waits_starts_nothing(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": "", "b": "a"})

    assert isinstance(ledger.claim(AttemptId(run_id, "b", 0), "c", "w"), Refusal)
    assert isinstance(ledger.claim(AttemptId(run_id, "b", 1), "c", "w"), Refusal)
    assert states_of(ledger, run_id)["b"] == "waiting"


def test_messages_of_a_run_that_is_not_there_leave_no_trace(ledger: Ledger) -> None:
    assert isinstance(ledger.claim(AttemptId("gone", "a", 1), "c", "w"), Refusal)
    assert isinstance(commit(ledger, "gone", "a", 7), Refusal)
    assert isinstance(commit(ledger, "gone", "a", 0, Outcome.LOST), Refusal)
    assert ledger.advance_due("gone").state is None
    assert ledger.cancel("gone", "x") is None
    assert not ledger.append_log(AttemptId("gone", "a", 1), 7, ["line"], 10)

    assert list(ledger.client.scan_iter(f"{ledger.prefix}:*")) == []


def test_tokens_grow_with_every_claim(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": "", "b": "", "c": ""})

    b, c, a = (begin(ledger, run_id, step) for step in "bca")

    assert 0 < b < c < a
    assert [ledger.token(run_id, step) for step in "abc"] == [a, b, c]


def test_no_token_comes_again_though_the_server_has_forgotten_the_last_ones(ledger: Ledger) -> None:
    run_id = start_graph(ledger, dict.fromkeys("abcd", ""))
    first = begin(ledger, run_id, "a")
    given = [first, begin(ledger, run_id, "b"), begin(ledger, run_id, "c")]

    for forgetful in (first, 0):
        ledger.client.hset(ledger.key(run_id, "run"), "token", forgetful)
        ledger.client.hset(ledger.key(run_id, "state"), "c", f"queued 1 0 {ledger.now_us()} -")
        given.append(begin(ledger, run_id, "c"))

    assert given == sorted(set(given))
    assert isinstance(commit(ledger, run_id, "c", given[2]), Refusal)
    assert isinstance(commit(ledger, run_id, "c", given[-1]), Commit)


def test_tokens_grow_though_the_clock_is_set_back(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": "", "b": "", "c": ""})
    first = begin(ledger, run_id, "a")
    # as good as an hour back
    ledger.client.hincrby(ledger.key(run_id, "run"), "created_at", 3600 * 10**6)

    assert [begin(ledger, run_id, step) for step in "bc"] == [first + 1, first + 2]


@pytest.mark.parametrize("age_us", [10**14 - 1, 10**14, 10**15, 2**52])
def test_tokens_of_a_run_that_is_years_old_keep_every_digit(ledger: Ledger, age_us: int) -> None:
    run_id = start_graph(ledger, {"a": "", "b": "a"})
    age(ledger, run_id, min(age_us, 10**15))  # no run is older than the epoch
    # An odd number at the end is the first that rounding would spoil.
    ledger.client.hset(ledger.key(run_id, "run"), "token", token := age_us + 3600 * 10**6 + 1)

    claims = [ledger.claim(AttemptId(run_id, "a", 1), "c", "w") for _ in range(2)]

    assert [claim.token for claim in claims] == [token + 1] * 2
    assert ledger.run_fields(run_id)["token"] == str(token + 1)
    assert ledger.token(run_id, "a") == token + 1
    assert isinstance(commit(ledger, run_id, "a", token), Refusal)
    assert not ledger.append_log(AttemptId(run_id, "a", 1), token + 2, ["line"], 10)
    assert ledger.append_log(AttemptId(run_id, "a", 1), token + 1, ["line"], 10)
    refused = [
        event.fields["token"] for event in ledger.events(run_id) if event.kind.endswith(".refused")
    ]
    assert refused == [token, token + 2]
    assert isinstance(ledger.report_lost(AttemptId(run_id, "a", 1), {}, token=token), Refusal)
    assert isinstance(ledger.report_lost(AttemptId(run_id, "a", 1), {}, token=token + 1), Replaced)
    assert isinstance(
        commit(ledger, run_id, "a", begin(ledger, run_id, "a", 2), FAILED, attempt=2), Commit
    )
    ledger.resume(run_id, [("a", 0), ("b", 0)])
    assert begin(ledger, run_id, "a", 3) == ledger.token(run_id, "a") == token + 3
    assert verify_run(ledger, run_id).violations == ()


@pytest.mark.parametrize(
    ("outcome", "retry_in_s", "state"),
    [(SUCCEEDED, None, "succeeded"), (FAILED, None, "failed"), (FAILED, 3600.0, "retrying")],
)
def test_the_same_commit_said_twice_gets_the_same_answer_and_one_event(
    ledger: Ledger, outcome: Outcome, retry_in_s: float | None, state: str
) -> None:
    run_id = start_graph(
        ledger, {"a": "", "next": "a", "tidy": "a", "more": ""}, {"tidy": "all_done"}
    )
    token = begin(ledger, run_id, "a")

    first = commit(ledger, run_id, "a", token, outcome, retry_in_s=retry_in_s)
    events = events_of(ledger, run_id)
    second = commit(ledger, run_id, "a", token, outcome, retry_in_s=retry_in_s)

    assert isinstance(first, Commit)
    assert first.state == state
    assert first == second
    assert events_of(ledger, run_id) == events


def test_a_commit_said_again_tells_also_of_what_is_ready_behind_steps_that_never_run(
    ledger: Ledger,
) -> None:
    run_id = start_graph(
        ledger, {"a": "", "b": "a", "c": "a", "d": "c", "tidy": "b d"}, {"tidy": "all_done"}
    )
    token = begin(ledger, run_id, "a")

    answers = [commit(ledger, run_id, "a", token, FAILED) for _ in range(2)]

    assert [heads(answer.ready) for answer in answers] == [["tidy"], ["tidy"]]


def test_a_commit_said_again_does_not_tell_of_what_has_begun(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": "", "b": "a", "c": "a"})
    token = begin(ledger, run_id, "a")
    commit(ledger, run_id, "a", token)
    begin(ledger, run_id, "b")

    assert heads(commit(ledger, run_id, "a", token).ready) == ["c"]


def test_late_commit_of_an_old_attempt_is_refused_and_the_refusal_is_recorded(
    ledger: Ledger,
) -> None:
    run_id = start_graph(ledger, {"a": "", "b": "a"})
    old = begin(ledger, run_id, "a")
    commit(ledger, run_id, "a", 0, Outcome.LOST, retry_in_s=0.0)
    ledger.advance_due(run_id)
    new = begin(ledger, run_id, "a", 2)

    refusal = commit(ledger, run_id, "a", old, output='"stale"')

    assert isinstance(refusal, Refusal)
    assert states_of(ledger, run_id) == {"a": "running", "b": "waiting"}
    event = list(ledger.events(run_id))[-1]
    assert (event.kind, event.step, event.attempt) == ("commit.refused", "a", 1)
    assert event.fields == {"outcome": "succeeded", "state": "running", "token": old}
    assert isinstance(commit(ledger, run_id, "a", new, attempt=2, output='"fresh"'), Commit)
    assert ledger.outputs(run_id) == {"a": '"fresh"'}


def test_success_of_an_attempt_that_was_given_up_is_refused_and_recorded(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": "", "b": "a"})
    token = begin(ledger, run_id, "a")
    commit(ledger, run_id, "a", 0, Outcome.LOST)

    assert isinstance(commit(ledger, run_id, "a", token, output="1"), Refusal)
    assert events_of(ledger, run_id)[-1] == ("commit.refused", "a", 1)
    assert ledger.outputs(run_id) == {}
    assert states_of(ledger, run_id) == {"a": "failed", "b": "upstream_failed"}


def test_a_commit_with_a_wrong_token_is_refused(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": ""})
    token = begin(ledger, run_id, "a")

    assert isinstance(commit(ledger, run_id, "a", token + 1), Refusal)
    assert isinstance(commit(ledger, run_id, "a", token, attempt=2), Refusal)
    assert states_of(ledger, run_id) == {"a": "running"}


def test_a_witness_speaks_for_an_attempt_that_nobody_claimed(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": ""})

    answer = commit(ledger, run_id, "a", 0, Outcome.LOST, worker="any")

    assert answer == Commit(StepState.FAILED, False, ())
    assert run_state(ledger, run_id) == "failed"


def test_a_witness_speaks_for_attempts_of_its_own_worker_only(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": ""})
    begin(ledger, run_id, "a", worker="cpu@host-1")
    before = events_of(ledger, run_id)

    for stranger in ("cpu@host-2", "cpu@host", "", "cpu@host-11"):
        assert isinstance(commit(ledger, run_id, "a", 0, Outcome.LOST, worker=stranger), Refusal)
    assert events_of(ledger, run_id) == before

    assert isinstance(commit(ledger, run_id, "a", 0, Outcome.LOST, worker="cpu@host-1"), Commit)


def test_a_witness_comes_too_late_for_an_attempt_that_ended(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": ""})
    commit(ledger, run_id, "a", begin(ledger, run_id, "a"))
    before = events_of(ledger, run_id)

    assert isinstance(commit(ledger, run_id, "a", 0, Outcome.LOST), Refusal)
    assert events_of(ledger, run_id) == before


def test_celerys_own_chain_goes_on_only_with_what_this_commit_made_ready(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": "", "b": "a", "x": "", "j": "x b"})
    answer = commit(ledger, run_id, "a", begin(ledger, run_id, "a"), follower=("b", 1))
    assert (answer.is_chain_going_on, answer.ready) == (True, ())

    # A message that says j follows b is wrong as long as x has not ended.
    answer = commit(ledger, run_id, "b", begin(ledger, run_id, "b"), follower=("j", 1))
    assert (answer.is_chain_going_on, answer.ready) == (False, ())

    # And one that has the wrong attempt is dropped for a new one.
    answer = commit(ledger, run_id, "x", begin(ledger, run_id, "x"), follower=("j", 2))
    assert (answer.is_chain_going_on, heads(answer.ready)) == (False, ["j"])


def test_a_retry_that_is_due_is_queued_once_however_many_coordinators_look(
    ledger: Ledger, at_once
) -> None:
    steps = [f"s{i}" for i in range(40)]
    run_id = start_graph(ledger, dict.fromkeys(steps, ""))
    for step in steps:
        commit(ledger, run_id, step, begin(ledger, run_id, step), FAILED, retry_in_s=0.0)

    promotions = at_once(lambda own, _: [own.advance_due(run_id, limit=3) for _ in range(5)])

    promoted = [
        step for each in promotions for promotion in each for step in heads(promotion.ready)
    ]
    assert sorted(promoted) == sorted(steps)
    queued = [
        step
        for event, step, attempt in events_of(ledger, run_id)
        if (event, attempt) == ("step.queued", 2)
    ]
    assert sorted(queued) == sorted(steps)


def test_a_retry_waits_for_its_due_time(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"soon": "", "later": ""})
    answers = {
        step: commit(ledger, run_id, step, begin(ledger, run_id, step), FAILED, retry_in_s=delay_s)
        for step, delay_s in (("later", 3600.0), ("soon", 0.02))
    }
    assert {answer.state for answer in answers.values()} == {StepState.RETRYING}
    due = {
        event.step: event.fields["due_at"]
        for event in ledger.events(run_id)
        if event.kind == "step.retrying"
    }
    at = {
        event.step: event.at_us for event in ledger.events(run_id) if event.kind == "step.retrying"
    }
    assert {step: due[step] - at[step] for step in due} == {"soon": 20_000, "later": 3_600_000_000}

    while not (promotion := ledger.advance_due(run_id)).ready:
        assert promotion.next_due_us == due["soon"]

    assert heads(promotion.ready) == ["soon"]
    assert promotion.next_due_us == due["later"]
    assert states_of(ledger, run_id) == {"soon": "queued", "later": "retrying"}
    queued_at = next(
        e.at_us for e in ledger.events(run_id) if (e.kind, e.attempt) == ("step.queued", 2)
    )
    assert queued_at >= due["soon"]


def test_a_message_of_the_failed_attempt_does_not_start_the_retry(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": ""})
    commit(ledger, run_id, "a", begin(ledger, run_id, "a"), FAILED, retry_in_s=0.0)
    assert isinstance(ledger.claim(AttemptId(run_id, "a", 1), "again", "w"), Refusal)
    assert isinstance(ledger.claim(AttemptId(run_id, "a", 2), "early", "w"), Refusal)

    ledger.advance_due(run_id)

    assert isinstance(ledger.claim(AttemptId(run_id, "a", 1), "again", "w"), Refusal)
    assert isinstance(ledger.claim(AttemptId(run_id, "a", 2), "now", "w"), Claim)


def test_a_claim_brings_call_params_and_outputs_of_the_steps_it_reads(ledger: Ledger) -> None:
    # The graph of tests has no data; the seam to real pipelines is tested with the submission.
    run_id = start_graph(ledger, {"a": ""})

    claim = ledger.claim(AttemptId(run_id, "a", 1), "c", "w")

    spec = StepSpec("cpu", CallKind.SHELL, args=[], command="true")
    assert claim == Claim(ledger.token(run_id, "a"), spec, {}, "", "p", 0, {})


def test_the_script_is_loaded_again_when_the_server_has_lost_it(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": ""})

    ledger.client.script_flush()
    token = begin(ledger, run_id, "a")
    ledger.client.script_flush()

    assert isinstance(commit(ledger, run_id, "a", token), Commit)
