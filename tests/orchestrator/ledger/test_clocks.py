"""What has waited too long: for a worker, for its message, for the end of its run."""

from __future__ import annotations

from orchestrator.attempt_id import AttemptId
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.states import Outcome, RunState, StepState
from orchestrator.ledger.values import OwnedAttempt, Refusal
from orchestrator.record.run import read_record
from tests.support.runs import INSTANT_S, begin, events_of, heads, run_state, start_graph, states_of

HOUR_US = 3_600_000_000
IMPATIENT = {"queue_timeout": INSTANT_S}
PATIENT = {"queue_timeout": 3600.0}


def queued_at(ledger: Ledger, run_id: str) -> int:
    return [event.at_us for event in ledger.events(run_id) if event.kind == "step.queued"][-1]


# -- waiting for a worker --------------------------------------------------------------------------


def test_a_step_that_no_worker_takes_in_time_fails(ledger: Ledger) -> None:
    run_id = start_graph(
        ledger, {"a": "", "b": "a", "tidy": "a"}, {"tidy": "always"}, {"a": IMPATIENT}
    )

    report = ledger.advance_due(run_id)

    assert heads(report.ready) == ["tidy"]
    assert states_of(ledger, run_id) == {"a": "failed", "b": "upstream_failed", "tidy": "queued"}
    (attempt,) = read_record(ledger, run_id).steps["a"].attempts
    assert (attempt.started_at_us, attempt.outcome) == (None, Outcome.TIMED_OUT)
    assert attempt.error.type == "QueueTimeout"
    assert (
        attempt.error.message
        == "it waited 1e-06 s for a worker of queue cpu, which is as long as it may"
    )
    assert isinstance(ledger.claim(AttemptId(run_id, "a", 1), "c", "w"), Refusal)
    assert ledger.queued_before(run_id, "cpu", 3, 2**52) == [("tidy", 1, queued_at(ledger, run_id))]


def test_a_step_that_a_worker_has_taken_waits_no_more(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": ""}, {}, {"a": IMPATIENT})
    token = begin(ledger, run_id, "a")

    report = ledger.advance_due(run_id)

    assert (report.expired, states_of(ledger, run_id)) == ((), {"a": "running"})
    ledger.commit(AttemptId(run_id, "a", 1), token, "w", Outcome.SUCCEEDED)
    assert ledger.due_at(run_id, "a") is None


def test_each_attempt_has_the_whole_time_to_wait_in(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": ""}, {}, {"a": PATIENT})
    dues = [ledger.due_at(run_id, "a") - queued_at(ledger, run_id)]

    token = begin(ledger, run_id, "a")
    ledger.report_lost(AttemptId(run_id, "a", 1), {}, token=token)
    dues.append(ledger.due_at(run_id, "a") - queued_at(ledger, run_id))
    ledger.commit(
        AttemptId(run_id, "a", 2),
        begin(ledger, run_id, "a", 2),
        "w",
        Outcome.FAILED,
        retry_in_s=0.0,
    )
    ledger.advance_due(run_id)
    dues.append(ledger.due_at(run_id, "a") - queued_at(ledger, run_id))

    assert dues == [HOUR_US] * 3


def test_a_message_that_is_sent_again_gives_no_more_time(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": ""}, {}, {"a": PATIENT})
    due = ledger.due_at(run_id, "a")
    ((_, _, sent_at_us),) = ledger.queued_before(run_id, "cpu", 3, 2**52)

    assert ledger.resend(AttemptId(run_id, "a", 1), sent_at_us, {})

    assert ledger.due_at(run_id, "a") == due


def test_a_step_that_is_cancelled_or_given_up_waits_no_more(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": "", "b": ""}, {}, {"a": PATIENT, "b": PATIENT})

    ledger.cancel_steps(run_id, ["a"], "no need")
    ledger.commit(AttemptId(run_id, "b", 1), 0, "w", Outcome.FAILED)

    assert (ledger.due_at(run_id, "a"), ledger.due_at(run_id, "b")) == (None, None)
    assert ledger.advance_due(run_id).next_due_us is None


# -- waiting for its message -----------------------------------------------------------------------


def test_a_list_of_the_broker_tells_its_oldest_message(ledger: Ledger) -> None:
    options = {
        "a": {"priority": 0},
        "b": {"priority": 5},
        "c": {"priority": 4},
        "d": {"pool": "gpu"},
    }
    run_id = start_graph(ledger, dict.fromkeys("abcd", ""), {}, options)
    at = queued_at(ledger, run_id)

    waiting = ledger.advance_due(run_id).waiting
    begin(ledger, run_id, "a")

    assert {(it.queue, it.level, it.oldest_at_us) for it in waiting} == {
        ("cpu", 0, at),
        ("cpu", 3, at),
        ("cuda", 3, at),
    }
    assert {(it.queue, it.level) for it in ledger.advance_due(run_id).waiting} == {
        ("cpu", 3),
        ("cuda", 3),
    }
    assert ledger.queued_before(run_id, "cpu", 3, at) == [("b", 1, at), ("c", 1, at)]
    assert ledger.queued_before(run_id, "cpu", 3, at - 1) == []
    assert ledger.queued_before(run_id, "cpu", 0, 2**52) == []


def test_of_many_who_miss_a_message_one_sends_it_again(ledger: Ledger, at_once) -> None:
    run_id = start_graph(ledger, {"a": "", "b": "a"})
    ((step, attempt, sent_at_us),) = ledger.queued_before(run_id, "cpu", 3, 2**52)

    answers = at_once(
        lambda own, _: own.resend(
            AttemptId(run_id, step, attempt), sent_at_us, {"found": "the queue is empty"}
        )
    )

    (sent,) = [chains for chains in answers if chains]
    assert [[link[:2] for link in chain.links] for chain in sent] == [[("a", 1), ("b", 1)]]
    events = [event for event in ledger.events(run_id) if event.kind == "message.lost"]
    assert [(event.step, event.attempt, event.fields) for event in events] == [
        ("a", 1, {"found": "the queue is empty"})
    ]
    assert read_record(ledger, run_id).repairs == 1
    ((_, _, sent_again_us),) = ledger.queued_before(run_id, "cpu", 3, 2**52)
    assert sent_again_us == events[0].at_us > sent_at_us
    assert ledger.resend(AttemptId(run_id, step, attempt), sent_again_us, {})


def test_nothing_is_sent_again_for_a_step_that_a_worker_has_or_that_went_on(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": "", "b": "a"})
    ((_, _, sent_at_us),) = ledger.queued_before(run_id, "cpu", 3, 2**52)
    token = begin(ledger, run_id, "a")
    before = events_of(ledger, run_id)

    assert ledger.resend(AttemptId(run_id, "a", 1), sent_at_us, {}) == ()
    assert ledger.resend(AttemptId(run_id, "b", 0), 0, {}) == ()
    assert ledger.resend(AttemptId("gone", "a", 1), sent_at_us, {}) == ()
    assert events_of(ledger, run_id) == before
    ledger.report_lost(AttemptId(run_id, "a", 1), {}, token=token)
    assert ledger.resend(AttemptId(run_id, "a", 1), sent_at_us, {}) == ()
    assert ledger.resend(AttemptId(run_id, "a", 2), sent_at_us, {}) == ()


# -- the end of the run ----------------------------------------------------------------------------


def test_a_run_that_misses_its_deadline_fails_and_all_that_is_open_is_cancelled(
    ledger: Ledger,
) -> None:
    upstream = {"runs": "", "retries": "", "queued": "", "waits": "runs"}
    run_id = start_graph(ledger, upstream, deadline_s="0.000001")
    begin(ledger, run_id, "runs")
    ledger.commit(
        AttemptId(run_id, "retries", 1),
        begin(ledger, run_id, "retries"),
        "w",
        Outcome.FAILED,
        retry_in_s=0.0,
    )

    report = ledger.advance_due(run_id)

    assert (report.state, report.ready) == (RunState.FAILED, ())
    assert report.alert_at_us is not None
    assert states_of(ledger, run_id) == dict.fromkeys(upstream, "cancelled")
    record = read_record(ledger, run_id)
    assert (record.state, record.cancel_reason) == (
        RunState.FAILED,
        "missed its deadline of 0.000001 s",
    )
    assert ledger.run_fields(run_id)["cancel_reason"] == record.cancel_reason
    held = OwnedAttempt(AttemptId(run_id, "runs", 1), "w")
    assert ledger.renew([held], 60.0) == {held: "cancelled"}
    assert [event for event, _, _ in events_of(ledger, run_id)].count("run.failed") == 1
    assert ledger.advance_due(run_id).state is RunState.FAILED


def test_a_run_that_is_never_begun_misses_its_deadline_too(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": ""}, deadline_s="0.000001")

    assert ledger.advance_due(run_id).state is RunState.FAILED


def test_a_run_that_ended_in_time_has_no_deadline_to_miss(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": ""}, deadline_s="0.000001")
    ledger.commit(AttemptId(run_id, "a", 1), begin(ledger, run_id, "a"), "w", Outcome.SUCCEEDED)

    assert ledger.advance_due(run_id).state is RunState.SUCCEEDED
    assert run_state(ledger, run_id) == "succeeded"


def test_a_deadline_counts_from_the_start_and_anew_from_a_resume(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": ""}, deadline_s=3600)
    fields = ledger.run_fields(run_id)
    assert int(fields["deadline_at"]) - int(fields["created_at"]) == HOUR_US
    assert ledger.advance_due(run_id).state is RunState.QUEUED
    ledger.cancel(run_id, "enough")

    ledger.resume(run_id, [("a", 0)])

    resumed_at = read_record(ledger, run_id).resumed_at_us
    assert int(ledger.run_fields(run_id)["deadline_at"]) - resumed_at == HOUR_US
    ledger.cancel(run_id, "enough")
    ledger.resume(run_id, [("a", 0)], fields={"params": "{}"})
    assert {"deadline_s", "deadline_at"}.isdisjoint(ledger.run_fields(run_id))
    assert ledger.states(run_id)["a"] == (StepState.QUEUED, 3)
