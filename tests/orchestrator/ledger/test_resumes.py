"""A run that has ended goes on in its own record: what is kept, what runs anew, and what is counted
on or anew."""

from __future__ import annotations

from typing import Any

import pytest
from redis.exceptions import ResponseError

from orchestrator.attempt_id import AttemptId
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.staging import staged_steps
from orchestrator.ledger.states import RunState
from orchestrator.ledger.values import (
    AttemptsStopping,
    Chain,
    Claim,
    OwnedAttempt,
    Refusal,
    ResumedMeanwhile,
    RunNotEnded,
    RunSucceeded,
    RunUnknown,
)
from orchestrator.record.run import read_record
from orchestrator.record.verification import verify_run
from tests.support.resumes import FAILED, SUCCEEDED, UPSTREAM, end, failed_run, links, resume_as
from tests.support.runs import (
    SETTINGS,
    SaidTwice,
    begin,
    counts_in,
    events_of,
    graph,
    heads,
    run_state,
    start_graph,
    states_of,
)

RESETS = [("b", 0), ("c", 1), ("d", 0)]


def everything(ledger: Ledger, run_id: str) -> list[Any]:
    """Return all that the server holds of a run."""
    keys = sorted(ledger.client.scan_iter(f"{ledger.prefix}:{{{run_id}}}:*", count=1000))
    return [ledger.client.dump(key) for key in keys]


def test_what_succeeded_is_kept_and_all_else_runs_as_a_new_attempt(ledger: Ledger) -> None:
    run_id = failed_run(ledger)

    chains = ledger.resume(run_id, RESETS)

    assert links(chains) == [[("b", 2)]]
    assert states_of(ledger, run_id) == {
        "a": "succeeded",
        "b": "queued",
        "c": "waiting",
        "d": "waiting",
    }
    fields = ledger.run_fields(run_id)
    assert (fields["state"], fields["open"], fields["resumes"]) == ("running", "3", "1")
    assert counts_in(fields) == {"succeeded": 1, "queued": 1, "waiting": 2}
    assert {"ended_at", "alert_at"}.isdisjoint(fields)
    assert isinstance(ledger.claim(AttemptId(run_id, "a", 2), "c", "w"), Refusal)

    assert end(ledger, run_id, "b", 2) == ["c"]  # it waits for b only: a is kept
    end(ledger, run_id, "c")
    end(ledger, run_id, "d")
    assert run_state(ledger, run_id) == "succeeded"
    assert ledger.outputs(run_id) == {"a": '"a1"', "b": '"b2"', "c": '"c1"', "d": '"d1"'}
    record = read_record(ledger, run_id)
    assert {step: [attempt.attempt for attempt in of.attempts] for step, of in record.steps.items()} == {
        "a": [1], "b": [1, 2], "c": [1], "d": [1]
    }  # fmt: skip
    assert (record.state, record.resumes) == (RunState.SUCCEEDED, 1)
    assert verify_run(ledger, run_id).violations == ()


def test_a_step_that_is_asked_for_runs_again_and_its_old_output_is_gone(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {**UPSTREAM, "x": ""})
    for step in "abcd":
        end(ledger, run_id, step)
    end(ledger, run_id, "x", outcome=FAILED)

    chains = ledger.resume(
        run_id, [("c", 2), ("d", 0), ("x", 0)], again=["c", "d"], detail={"from": ["c"]}
    )

    assert links(chains) == [[("c", 2), ("d", 2)], [("x", 2)]]
    assert ledger.outputs(run_id) == {"a": '"a1"', "b": '"b1"'}
    (event,) = [event for event in ledger.events(run_id) if event.kind == "run.resumed"]
    assert (event.fields["again"], event.fields["reset"], event.fields["from"]) == (
        ["c", "d"],
        3,
        ["c"],
    )
    for step in "cdx":
        end(ledger, run_id, step, 2)
    assert verify_run(ledger, run_id).violations == ()


def test_a_step_waits_for_as_many_upstreams_as_are_not_kept(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {**dict.fromkeys("abcd", ""), "e": "a b c d"})
    for step, outcome in (("a", SUCCEEDED), ("b", FAILED), ("c", SUCCEEDED), ("d", FAILED)):
        end(ledger, run_id, step, outcome=outcome)

    assert heads(ledger.resume(run_id, [("b", 0), ("d", 0), ("e", 2)])) == ["b", "d"]
    assert end(ledger, run_id, "d", 2) == []
    assert end(ledger, run_id, "b", 2, FAILED) == []
    assert states_of(ledger, run_id)["e"] == "upstream_failed"
    assert heads(ledger.resume(run_id, [("b", 0), ("e", 3)])) == ["b"]
    assert end(ledger, run_id, "b", 3) == ["e"]


def test_a_skipped_step_is_judged_anew(ledger: Ledger) -> None:
    upstream = {"a": "", "alarm": "a", "page": "alarm", "x": ""}
    run_id = start_graph(ledger, upstream, {"alarm": "one_failed"})
    end(ledger, run_id, "a")
    end(ledger, run_id, "x", outcome=FAILED)
    assert states_of(ledger, run_id)["page"] == "skipped"

    # a is kept, so nothing will ever let the alarm run: it is skipped again, and what needs it.
    assert heads(ledger.resume(run_id, [("alarm", 1), ("page", 0), ("x", 0)])) == ["x"]
    assert states_of(ledger, run_id) == {
        "a": "succeeded",
        "alarm": "skipped",
        "page": "skipped",
        "x": "queued",
    }
    end(ledger, run_id, "x", 2, FAILED)

    assert heads(
        ledger.resume(run_id, [("a", 0), ("alarm", 0), ("page", 0), ("x", 0)], again=["a"])
    ) == ["a", "x"]
    assert end(ledger, run_id, "a", 2, FAILED) == ["alarm"]


@pytest.mark.parametrize(
    ("rule", "queued_by"),
    [
        ("all_success", "b"),
        ("all_done", "b"),
        ("always", "b"),
        ("none_failed", "b"),
        ("one_failed", ""),
    ],
)
def test_every_rule_counts_what_is_kept(ledger: Ledger, rule: str, queued_by: str) -> None:
    run_id = start_graph(ledger, {"a": "", "b": "", "c": "a b"}, {"c": rule})
    end(ledger, run_id, "a")
    ledger.cancel(run_id, "enough")

    ledger.resume(run_id, [("b", 0), ("c", 1)])

    assert states_of(ledger, run_id)["c"] == "waiting"
    assert end(ledger, run_id, "b", 2) == (["c"] if queued_by else [])
    assert states_of(ledger, run_id)["c"] == ("queued" if queued_by else "skipped")


def test_a_run_in_which_nothing_is_left_to_do_ends_at_once(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": "", "b": ""})
    end(ledger, run_id, "a")
    end(ledger, run_id, "b", outcome=FAILED)

    assert resume_as(ledger, run_id, graph({"a": ""}), kept="a", gone="b") == ()
    assert (run_state(ledger, run_id), events_of(ledger, run_id)[-2:]) == (
        "succeeded", [("run.resumed", "", 0), ("run.succeeded", "", 0)]
    )  # fmt: skip


def test_a_run_that_never_began_is_queued_again(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": ""})
    ledger.cancel(run_id, "enough")

    assert links(ledger.resume(run_id, [("a", 0)])) == [[("a", 2)]]
    assert run_state(ledger, run_id) == "queued"
    assert "cancel_reason" not in ledger.run_fields(run_id)
    begin(ledger, run_id, "a", 2)
    assert events_of(ledger, run_id)[-2:] == [("run.started", "", 0), ("step.started", "a", 2)]
    assert verify_run(ledger, run_id).violations == ()


def test_retries_and_lost_attempts_count_anew(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": ""}, {}, {"a": {"lost_attempts": 2}})
    attempt = 1
    for resumes in range(3):
        claim = ledger.claim(AttemptId(run_id, "a", attempt), "c", "w")
        assert isinstance(claim, Claim)
        assert claim.uncounted == attempt - 1  # the first try by the user's count
        ledger.report_lost(AttemptId(run_id, "a", attempt), {}, token=claim.token)
        claim = ledger.claim(AttemptId(run_id, "a", attempt + 1), "c", "w")
        assert isinstance(claim, Claim)
        assert claim.uncounted == attempt
        ledger.commit(AttemptId(run_id, "a", attempt + 1), claim.token, "w", FAILED, retry_in_s=0.0)
        ledger.advance_due(run_id)
        end(ledger, run_id, "a", attempt + 2, FAILED)
        assert states_of(ledger, run_id) == {"a": "failed"}
        attempt += 3
        ledger.resume(run_id, [("a", 0)])
        assert ledger.uncounted(run_id, "a") == 3 * (resumes + 1)
    assert verify_run(ledger, run_id).violations == ()


def test_what_ended_before_a_resume_commits_and_writes_nothing_after_it(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": "", "b": ""})
    tokens = {step: begin(ledger, run_id, step) for step in "ab"}
    ledger.commit(AttemptId(run_id, "a", 1), tokens["a"], "w", FAILED)
    ledger.cancel(run_id, "enough")
    ledger.report_stopped(OwnedAttempt(AttemptId(run_id, "b", 1), "w"), {"how": "killed"})
    ledger.resume(run_id, [("a", 0), ("b", 0)])

    for is_cancelled_again in (False, True):
        if is_cancelled_again:
            ledger.cancel(run_id, "enough")
        for step in "ab":
            for outcome in (SUCCEEDED, FAILED):
                assert isinstance(
                    ledger.commit(AttemptId(run_id, step, 1), tokens[step], "w", outcome), Refusal
                )
            assert not ledger.append_log(AttemptId(run_id, step, 1), tokens[step], ["late"], 10)
            held = OwnedAttempt(AttemptId(run_id, step, 1), "w")
            assert ledger.renew([held], 60.0) == {held: "fenced"}
    events = [event for event, _, _ in events_of(ledger, run_id)]
    assert (events.count("commit.refused"), events.count("log.refused")) == (8, 4)


def test_a_step_that_waits_after_a_resume_is_nobodys(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": "", "b": "a"})
    end(ledger, run_id, "a")
    token = begin(ledger, run_id, "b")
    ledger.commit(AttemptId(run_id, "b", 1), token, "w", FAILED)
    ledger.resume(run_id, [("a", 0), ("b", 0)], again=["a"])

    assert isinstance(ledger.report_lost(AttemptId(run_id, "b", 1), {}, owner="w"), Refusal)
    assert isinstance(ledger.commit(AttemptId(run_id, "b", 1), 0, "w", FAILED), Refusal)
    ledger.cancel(run_id, "enough")
    assert not ledger.append_log(AttemptId(run_id, "b", 1), token, ["late"], 10)


def refused_resumes(ledger: Ledger) -> dict[str, tuple[str, type[Exception], dict[str, Any]]]:
    running = start_graph(ledger, {"a": ""})
    stopping = start_graph(ledger, {"a": ""})
    begin(ledger, stopping, "a")
    ledger.cancel(stopping, "enough")
    once = start_graph(ledger, {"a": ""})
    ledger.cancel(once, "enough")
    ledger.resume(once, [("a", 0)])
    ledger.cancel(once, "enough")
    good = start_graph(ledger, {"a": ""})
    end(ledger, good, "a")
    return {
        "it has succeeded": (good, RunSucceeded, {"again": ["a"]}),
        "it goes on": (running, RunNotEnded, {}),
        "attempts are being stopped": (stopping, AttemptsStopping, {}),
        "it was resumed meanwhile": (once, ResumedMeanwhile, {"seen_resumes": 0}),
        "it is not there": ("gone", RunUnknown, {}),
    }


@pytest.mark.parametrize(
    "case",
    [
        "it has succeeded",
        "it goes on",
        "attempts are being stopped",
        "it was resumed meanwhile",
        "it is not there",
    ],
)
def test_a_resume_is_refused_and_changes_nothing_when(ledger: Ledger, case: str) -> None:
    run_id, error, more = refused_resumes(ledger)[case]
    before = everything(ledger, run_id)

    with pytest.raises(error):
        ledger.resume(run_id, [("a", 0)], **more)

    assert everything(ledger, run_id) == before


def test_a_resume_tells_how_many_attempts_are_being_stopped(ledger: Ledger) -> None:
    run_id = start_graph(ledger, dict.fromkeys("abc", ""))
    for step in "ab":
        begin(ledger, run_id, step)
    ledger.cancel(run_id, "enough")

    with pytest.raises(AttemptsStopping, match="2 attempts") as caught:
        ledger.resume(run_id, [(step, 0) for step in "abc"])
    assert caught.value.count == 2
    for step in "ab":
        ledger.report_stopped(OwnedAttempt(AttemptId(run_id, step, 1), "w"), {"how": "killed"})
    assert heads(ledger.resume(run_id, [(step, 0) for step in "abc"])) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("resets", "more"),
    [
        ([("b", 0), ("c", 1)], {}),
        ([("a", 0), *RESETS], {}),
        (RESETS, {"again": ["a"]}),
        ([*RESETS], {"gone": ["a"]}),
        ([], {}),
    ],
)
def test_a_resume_that_would_lose_count_of_the_steps_is_refused_and_changes_nothing(
    ledger: Ledger, resets, more
) -> None:
    run_id = failed_run(ledger)
    before = everything(ledger, run_id)

    with pytest.raises(ResponseError, match="RESETS"):
        ledger.resume(run_id, resets, **more)

    assert everything(ledger, run_id) == before


@pytest.mark.parametrize("is_staged", [False, True])
def test_a_resume_that_is_said_twice_happens_once(ledger: Ledger, is_staged: bool) -> None:
    run_id = failed_run(ledger)
    staged = list(staged_steps(graph(UPSTREAM).plan(), SETTINGS)) if is_staged else ()

    chains = SaidTwice(ledger.client, ledger.prefix).resume(run_id, RESETS, staged=staged)

    assert links(chains) == [[("b", 2)]]
    events = [event for event, _, _ in events_of(ledger, run_id)]
    assert (events.count("run.resumed"), events.count("step.queued")) == (1, 3)
    assert verify_run(ledger, run_id).violations == ()


def test_of_many_who_resume_at_once_one_does_and_what_they_stage_is_not_mixed(
    ledger: Ledger, at_once
) -> None:
    run_id = failed_run(ledger)

    def resume(own: Ledger, number: int) -> tuple[Chain, ...] | None:
        other = graph({**UPSTREAM, f"new{number}": "d"})
        try:
            return own.resume(
                run_id,
                [*RESETS, (f"new{number}", 0)],
                staged=list(staged_steps(other.plan(), SETTINGS)),
            )
        except RunNotEnded:
            return None

    answers = at_once(resume)

    (winner,) = [number for number, answer in enumerate(answers) if answer is not None]
    assert list(ledger.entries(run_id)) == [*UPSTREAM, f"new{winner}"]
    assert [event for event, _, _ in events_of(ledger, run_id)].count("run.resumed") == 1
    left = list(ledger.client.scan_iter(f"{ledger.prefix}:{{{run_id}}}:*~*"))
    assert all(0 < ledger.client.ttl(key) <= 3600 for key in left)


@pytest.mark.parametrize("is_before", [True, False])
def test_a_coordinator_that_looks_while_a_run_is_resumed_does_not_lose_it(
    ledger: Ledger, is_before: bool
) -> None:
    class LookedAt(Ledger):
        def _call(self, run_id: str, *args: Any) -> Any:
            if is_before and args[0] == "resume":
                ledger.unwatch_run(run_id)
            answer = super()._call(run_id, *args)
            if not is_before and args[0] == "resume":
                ledger.unwatch_run(run_id)
            return answer

    run_id = failed_run(ledger)
    ledger.unwatch_run(run_id)

    LookedAt(ledger.client, ledger.prefix).resume(run_id, RESETS)

    assert ledger.active_runs() == [run_id]
