"""What a failure, a skip and a cancel do to the rest of a run."""

from __future__ import annotations

import pytest

from orchestrator.attempt_id import AttemptId
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.states import Outcome, RunState
from orchestrator.ledger.values import Claim, Commit, DueReport, OwnedAttempt, Refusal
from orchestrator.record.run import read_record
from tests.support.invariants import check_record
from tests.support.runs import (
    begin,
    events_of,
    graph,
    heads,
    run_state,
    start,
    start_graph,
    states_of,
)

RULES = ("all_success", "all_done", "one_failed", "none_failed", "always")


def end(ledger: Ledger, run_id: str, step: str, outcome: Outcome = Outcome.SUCCEEDED) -> list[str]:
    """Run a step and give the heads of what that makes ready."""
    answer = ledger.commit(AttemptId(run_id, step, 1), begin(ledger, run_id, step), "w", outcome)
    assert isinstance(answer, Commit)
    return heads(answer.ready)


def test_a_failure_ends_all_descendants_in_the_same_call(ledger: Ledger) -> None:
    upstream = {"a": "", "b": "a", "c": "b", "d": "b c", "e": "d x", "x": "", "y": "x"}
    run_id = start_graph(ledger, upstream)

    assert end(ledger, run_id, "a", Outcome.FAILED) == []

    assert states_of(ledger, run_id) == {
        "a": "failed", "b": "upstream_failed", "c": "upstream_failed", "d": "upstream_failed",
        "e": "upstream_failed",
        "x": "queued", "y": "waiting",
    }  # fmt: skip
    events = list(ledger.events(run_id))
    assert {
        event.at_us for event in events if event.kind in ("step.failed", "step.upstream_failed")
    } == {events[-1].at_us}
    assert {
        step: it.because for step, it in read_record(ledger, run_id).steps.items() if it.because
    } == dict.fromkeys("bcde", "a")


def test_what_is_below_a_failure_can_never_start(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": "", "b": "a", "c": "b x", "x": ""})
    end(ledger, run_id, "a", Outcome.FAILED)

    assert end(ledger, run_id, "x") == []

    for step in "bc":
        for attempt in (0, 1):
            assert isinstance(ledger.claim(AttemptId(run_id, step, attempt), "stray", "w"), Refusal)
    assert states_of(ledger, run_id) == {
        "a": "failed",
        "b": "upstream_failed",
        "c": "upstream_failed",
        "x": "succeeded",
    }


def test_independent_branches_go_on_to_their_end_and_the_run_fails_only_then(
    ledger: Ledger,
) -> None:
    run_id = start_graph(ledger, {"a": "", "b": "a", "x": "", "y": "x"})
    end(ledger, run_id, "a", Outcome.FAILED)
    assert run_state(ledger, run_id) == "running"

    assert end(ledger, run_id, "x") == ["y"]
    assert run_state(ledger, run_id) == "running"
    end(ledger, run_id, "y")

    assert run_state(ledger, run_id) == "failed"
    assert events_of(ledger, run_id)[-1] == ("run.failed", "", 0)


@pytest.mark.parametrize(
    ("ends", "became"),
    [
        (("succeeded", "succeeded"), ("queued", "queued", "skipped", "queued", "queued")),
        (("succeeded", "skipped"), ("skipped", "queued", "skipped", "queued", "queued")),
        (("skipped", "skipped"), ("skipped", "queued", "skipped", "queued", "queued")),
        (
            ("succeeded", "failed"),
            ("upstream_failed", "queued", "queued", "upstream_failed", "queued"),
        ),
        (
            ("failed", "skipped"),
            ("upstream_failed", "queued", "queued", "upstream_failed", "queued"),
        ),
        (
            ("upstream_failed", "succeeded"),
            ("upstream_failed", "queued", "queued", "upstream_failed", "queued"),
        ),
        (("failed", None), ("upstream_failed", "waiting", "queued", "upstream_failed", "waiting")),
        (("succeeded", None), ("waiting", "waiting", "waiting", "waiting", "waiting")),
        (("skipped", None), ("waiting", "waiting", "waiting", "waiting", "waiting")),
    ],
)
@pytest.mark.parametrize("is_reversed", [False, True])
def test_each_rule_decides_as_soon_as_it_can(
    ledger: Ledger, ends, became, is_reversed: bool
) -> None:
    # Two upstreams u0, u1 that end as given (None: not yet), below them one step for each rule.
    upstream = {"u0": "g0", "u1": "g1", "g0": "", "g1": "", **dict.fromkeys(RULES, "u0 u1")}
    # The gate above u decides: an upstream is skipped by a one_failed of its own, and
    # upstream_failed by a failure.
    rules = {rule: rule for rule in RULES} | {
        f"u{i}": "one_failed" for i in (0, 1) if ends[i] == "skipped"
    }
    run_id = start_graph(ledger, upstream, rules)

    for i in (1, 0) if is_reversed else (0, 1):
        if ends[i] is None:
            continue
        end(
            ledger,
            run_id,
            f"g{i}",
            Outcome.FAILED if ends[i] == "upstream_failed" else Outcome.SUCCEEDED,
        )
        if ends[i] in ("succeeded", "failed"):
            end(ledger, run_id, f"u{i}", Outcome(ends[i]))

    states = states_of(ledger, run_id)
    assert (states["u0"], states["u1"]) == tuple(end or "waiting" for end in ends)
    assert tuple(states[rule] for rule in RULES) == became


def test_a_step_that_waits_for_a_failure_does_not_wait_for_the_rest(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": "", "slow": "", "alarm": "a slow"}, {"alarm": "one_failed"})
    begin(ledger, run_id, "slow")

    assert end(ledger, run_id, "a", Outcome.FAILED) == ["alarm"]


def test_a_message_never_crosses_a_step_that_a_success_cannot_start(ledger: Ledger) -> None:
    plan = graph({"a": "", "b": "a", "alarm": "b", "page": "alarm"}, {"alarm": "one_failed"}).plan()
    assert plan.chains == (("a", "b", "alarm", "page"),)

    run_id, chains = start(ledger, plan)

    assert [[link.step for link in chain.links] for chain in chains] == [["a", "b"]]
    end(ledger, run_id, "a")
    failed = ledger.commit(
        AttemptId(run_id, "b", 1), begin(ledger, run_id, "b"), "w", Outcome.FAILED
    )
    assert [[link.step for link in chain.links] for chain in failed.ready] == [["alarm", "page"]]


def test_a_retry_takes_the_rest_of_its_chain_along(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": "", "b": "a", "c": "b"})
    token = begin(ledger, run_id, "a")
    ledger.commit(AttemptId(run_id, "a", 1), token, "w", Outcome.FAILED, retry_in_s=0.0)

    ready = ledger.advance_due(run_id).ready

    assert [[link[:2] for link in chain.links] for chain in ready] == [
        [("a", 2), ("b", 1), ("c", 1)]
    ]


def test_cancel_ends_every_open_step_and_the_run(ledger: Ledger) -> None:
    upstream = {
        "done": "",
        "failed": "",
        "below": "failed",
        "runs": "",
        "retries": "",
        "queued": "",
        "waits": "queued",
    }
    run_id = start_graph(ledger, upstream)
    end(ledger, run_id, "done")
    end(ledger, run_id, "failed", Outcome.FAILED)
    token = begin(ledger, run_id, "runs")
    ledger.commit(
        AttemptId(run_id, "retries", 1),
        begin(ledger, run_id, "retries"),
        "w",
        Outcome.FAILED,
        retry_in_s=60.0,
    )

    assert ledger.cancel(run_id, "enough – genug") == 4

    ended = {"done": "succeeded", "failed": "failed", "below": "upstream_failed"}
    assert states_of(ledger, run_id) == {step: ended.get(step, "cancelled") for step in upstream}
    fields = ledger.run_fields(run_id)
    assert (fields["state"], fields["open"], fields["cancel_reason"]) == (
        "cancelled",
        "0",
        "enough – genug",
    )
    assert {key: fields[key] for key in fields if key.startswith("n:") and fields[key] != "0"} == {
        "n:succeeded": "1", "n:failed": "1", "n:upstream_failed": "1", "n:cancelled": "4",
    }  # fmt: skip

    # Nothing moves any more, but for the one that ran, which is told so: it may write its log until
    # it is gone.
    report = ledger.advance_due(run_id)
    assert report == DueReport(RunState.CANCELLED, report.next_due_us, report.now_us, ())
    assert [attempt.step for attempt in ledger.stopping(run_id)] == ["runs"]
    assert ledger.append_log(AttemptId(run_id, "runs", 1), token, ["last words"], 10)
    ledger.report_stopped(OwnedAttempt(AttemptId(run_id, "runs", 1), "w"), {"how": "killed"})
    report = ledger.advance_due(run_id)
    assert report == DueReport(RunState.CANCELLED, None, report.now_us, ())
    assert ledger.cancel(run_id, "again") is None
    assert isinstance(ledger.claim(AttemptId(run_id, "queued", 1), "c", "w"), Refusal)
    assert isinstance(
        ledger.commit(AttemptId(run_id, "runs", 1), token, "w", Outcome.SUCCEEDED, output="1"),
        Refusal,
    )
    assert ledger.outputs(run_id) == {}
    assert events_of(ledger, run_id)[-3:] == [
        ("run.cancelled", "", 0), ("attempt.stopped", "runs", 1), ("commit.refused", "runs", 1)
    ]  # fmt: skip

    record = read_record(ledger, run_id)
    assert record.cancel_reason == "enough – genug"
    assert record.steps["runs"].attempts[0].outcome == "cancelled"
    assert record.steps["retries"].attempts[0].outcome == "failed"
    check_record(
        ledger.events(run_id),
        {s: tuple(u.split()) for s, u in upstream.items()},
        dict.fromkeys(upstream, RULES[0]),
    )


def test_a_run_that_has_ended_cannot_be_cancelled(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": ""})
    end(ledger, run_id, "a")
    before = events_of(ledger, run_id)

    assert ledger.cancel(run_id, "late") is None
    assert events_of(ledger, run_id) == before
    assert run_state(ledger, run_id) == "succeeded"


def test_a_run_may_be_cancelled_before_its_first_step(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": "", "b": "a"})

    assert ledger.cancel(run_id, "") == 2
    assert [event for event, _, _ in events_of(ledger, run_id)] == [
        "run.created", "step.queued", "step.cancelled", "step.cancelled", "run.cancelled",
    ]  # fmt: skip
    assert not isinstance(ledger.claim(AttemptId(run_id, "a", 1), "c", "w"), Claim)
