"""Resumes by another pipeline than the run was started with."""

from __future__ import annotations

from orchestrator.attempt_id import AttemptId
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.states import RunState, StepState
from orchestrator.ledger.values import (
    Claim,
    Refusal,
)
from orchestrator.record.run import read_record
from orchestrator.record.verification import verify_run
from tests.support.resumes import FAILED, UPSTREAM, end, failed_run, links, resume_as
from tests.support.runs import (
    counts_in,
    graph,
    states_of,
)


def test_steps_may_come_and_go(ledger: Ledger) -> None:
    run_id = failed_run(ledger)

    # b is gone; c waits for a and for a new step now.
    chains = resume_as(
        ledger, run_id, graph({"a": "", "n": "a", "c": "n", "d": "c"}), kept="a", gone="b"
    )

    assert links(chains) == [[("n", 1), ("c", 1), ("d", 1)]]
    assert states_of(ledger, run_id) == {
        "a": "succeeded",
        "n": "queued",
        "c": "waiting",
        "d": "waiting",
    }
    assert counts_in(ledger.run_fields(run_id)) == {"succeeded": 1, "queued": 1, "waiting": 2}
    (event,) = [event for event in ledger.events(run_id) if event.kind == "run.resumed"]
    assert (event.fields["new"], event.fields["gone"], event.fields["rewired"]) == (
        ["n"],
        ["b"],
        ["c"],
    )
    for step in "ncd":
        end(ledger, run_id, step)
    record = read_record(ledger, run_id)
    assert (record.state, list(record.steps)) == (RunState.SUCCEEDED, ["a", "n", "c", "d"])
    assert verify_run(ledger, run_id).violations == ()


def test_a_step_that_had_succeeded_and_is_gone_leaves_no_output(ledger: Ledger) -> None:
    run_id = failed_run(ledger)

    resume_as(ledger, run_id, graph({"b": "", "c": "b", "d": "c"}), kept="", gone="a")

    assert ledger.outputs(run_id) == {}
    assert counts_in(ledger.run_fields(run_id)) == {"queued": 1, "waiting": 2}
    assert isinstance(ledger.claim(AttemptId(run_id, "a", 1), "c", "w"), Refusal)
    assert verify_run(ledger, run_id).violations == ()


def test_a_step_that_comes_back_counts_its_attempts_on(ledger: Ledger) -> None:
    run_id = failed_run(ledger)
    resume_as(ledger, run_id, graph({"b": "", "c": "b", "d": "c"}), kept="", gone="a")
    end(ledger, run_id, "b", 2, FAILED)

    chains = resume_as(ledger, run_id, graph(UPSTREAM), kept="")

    assert links(chains) == [[("a", 2)], [("b", 3)]]
    claim = ledger.claim(AttemptId(run_id, "a", 2), "c", "w")
    assert isinstance(claim, Claim)
    assert claim.uncounted == 1
    assert [attempt.attempt for attempt in read_record(ledger, run_id).steps["a"].attempts] == [
        1,
        2,
    ]
    assert verify_run(ledger, run_id).violations == ()


def test_options_are_those_of_the_pipeline_as_it_is_now(ledger: Ledger) -> None:
    run_id = failed_run(ledger)

    resume_as(
        ledger,
        run_id,
        graph(UPSTREAM, {"c": "all_done"}, {"b": {"pool": "gpu", "priority": 0}}),
        kept="a",
    )

    assert ledger.queued_before(run_id, "cuda", 0, 2**52)[0][:2] == ("b", 2)
    assert end(ledger, run_id, "b", 2, FAILED) == ["c"]
    assert ledger.states(run_id)["c"] == (StepState.QUEUED, 1)
