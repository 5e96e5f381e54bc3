"""What a rerun takes over and what it runs: by what the steps are now, and by what there is of the
other run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest

from orchestrator.artifacts.reference import Artifact
from orchestrator.attempt_id import AttemptId
from orchestrator.definition.options import StepOptions
from orchestrator.definition.pipeline import (
    FunctionCall,
    OutputRef,
    ParamRef,
    Pipeline,
    ShellCall,
    Step,
)
from orchestrator.errors import RerunRefused
from orchestrator.ledger.states import Outcome
from orchestrator.ledger.values import Reused
from orchestrator.messages.queues import queue_keys
from orchestrator.plan.compile import compile_pipeline
from orchestrator.plan.plan import Plan
from orchestrator.record.verification import verify_run
from orchestrator.runs.rerunning import Rerun, plan_rerun, read_finished, rerun
from orchestrator.runs.stored import read_run
from orchestrator.runs.submission import submit
from tests.support.runs import begin, graph, run_state, states_of

DIAMOND = {"a": "", "b": "a", "c": "a", "d": "b c"}


@pytest.fixture
def ended(ledger, app, chosen) -> Callable[..., str]:
    """Submit a plan and end steps of it; "!" behind a name lets it fail, "*" stores its output as
    an artifact."""

    def run(plan: Plan, ending: str) -> str:
        run_id = submit(plan, ledger, app, chosen, target="/p.yaml")
        end(ledger, run_id, ending)
        return run_id

    return run


def end(ledger, run_id: str, ending: str) -> None:
    for word in ending.split():
        step = word.rstrip("!*")
        attempt = ledger.states(run_id)[step][1]
        outcome = Outcome.FAILED if word.endswith("!") else Outcome.SUCCEEDED
        artifact = {
            "$artifact": {
                "path": f"{run_id}/{step}",
                "sha256": "0",
                "size_bytes": 1,
                "kind": "list",
            }
        }
        output = (
            json.dumps(artifact, separators=(",", ":"))
            if word.endswith("*")
            else f'"{step}{attempt}"'
        )
        ledger.commit(
            AttemptId(run_id, step, attempt),
            begin(ledger, run_id, step, attempt),
            "w",
            outcome,
            output=output,
        )


@pytest.fixture
def planned(ledger, chosen) -> Callable[..., Rerun]:
    def make(run_id: str, plan: Plan, *from_steps: str, **options) -> Rerun:
        return plan_rerun(
            read_finished(ledger, read_run(ledger, run_id)), plan, chosen, from_steps, **options
        )

    return make


def of(steps: Iterable[Step], **params: object) -> Plan:
    return compile_pipeline(Pipeline("p", {step.name: step for step in steps}, params))


CALLS = (
    Step("a", FunctionCall("m:f", (ParamRef("x"),))),
    Step("b", FunctionCall("m:f", (OutputRef("a"),)), ("a",)),
    Step("c", ShellCall("echo"), ("a",)),
    Step("d", FunctionCall("m:f", (1,)), ("c",)),
)


def changed(place: int, **changes: object) -> tuple[Step, ...]:
    return (*CALLS[:place], replace(CALLS[place], **changes), *CALLS[place + 1 :])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("steps", "params", "from_steps", "taken_over", "differing"),
    [
        (CALLS, {"x": 1, "y": 1}, (), "abcd", ""),
        (CALLS, {"x": 1, "y": 2}, (), "abcd", ""),  # a param that no step reads
        (CALLS, {"x": True, "y": 1}, (), "", "a"),  # another value, though Python calls it equal
        (CALLS, {"x": 1, "y": 1}, ("c",), "ab", ""),
        (CALLS, {"x": 1, "y": 1}, ("b", "d"), "ac", ""),
        (changed(1, call=FunctionCall("m:g", (OutputRef("a"),))), {"x": 1}, (), "acd", "b"),
        (changed(2, call=ShellCall("echo 2")), {"x": 1}, (), "ab", "c"),
        (changed(3, call=FunctionCall("m:f", (2,))), {"x": 1}, (), "abc", "d"),
        (changed(3, upstream=("c", "b")), {"x": 1}, (), "abc", "d"),
        (changed(3, upstream=()), {"x": 1}, (), "abc", "d"),
        (changed(3, options=StepOptions(trigger="all_done")), {"x": 1}, (), "abc", "d"),
        (
            changed(3, options=StepOptions(retries=3, timeout=7, priority=1)),
            {"x": 1},
            (),
            "abcd",
            "",
        ),
        ((*CALLS, Step("new", ShellCall("true"), ("d",))), {"x": 1}, (), "abcd", ""),
        (
            (*changed(3, upstream=("c", "new")), Step("new", ShellCall("true"))),
            {"x": 1},
            (),
            "abc",
            "d",
        ),
        (CALLS[:3], {"x": 1}, (), "abc", ""),
    ],
)
def test_a_step_is_taken_over_when_it_and_all_above_it_are_as_they_were(
    ledger, app, ended, planned, steps, params, from_steps, taken_over, differing
) -> None:
    run_id = ended(of(CALLS, x=1, y=1), "a b c d")
    before = ledger.run_fields(run_id), ledger.last_event_id(run_id), ledger.outputs(run_id)

    it = planned(run_id, of(steps, **params), *from_steps)
    rerun(ledger, app, it, f"{run_id}-again")

    assert (sorted(it.reused), it.differing) == (sorted(taken_over), tuple(differing))
    assert ledger.reused(f"{run_id}-again") == {step: Reused(run_id, 1) for step in taken_over}
    assert verify_run(ledger, f"{run_id}-again").violations == ()
    assert (
        ledger.run_fields(run_id),
        ledger.last_event_id(run_id),
        ledger.outputs(run_id),
    ) == before
    fields = ledger.run_fields(f"{run_id}-again")
    assert (fields["rerun_of"], json.loads(fields["reuses"])) == (
        run_id,
        [run_id] if taken_over else [],
    )
    assert fields["target"] == "/p.yaml"


def test_what_did_not_succeed_runs_and_what_was_decided_by_it_is_decided_anew(
    ledger, app, ended, planned
) -> None:
    plan = graph(
        {**DIAMOND, "page": "b", "tidy": "d", "x": ""}, {"page": "one_failed", "tidy": "always"}
    ).plan()
    run_id = ended(plan, "a b! c page tidy x")

    rerun(ledger, app, planned(run_id, plan), "again")

    assert states_of(ledger, "again") == {
        "a": "succeeded", "b": "queued", "c": "succeeded", "d": "waiting", "page": "waiting",
        "tidy": "waiting",
        "x": "succeeded",
    }  # fmt: skip
    end(ledger, "again", "b d tidy")
    assert run_state(ledger, "again") == "succeeded"
    assert verify_run(ledger, "again").violations == ()


def test_a_rerun_sends_only_what_runs(ledger, app, chosen, ended, planned, messages_in) -> None:
    plan = graph(DIAMOND).plan()
    run_id = ended(plan, "a b c d")
    ledger.client.delete(*queue_keys(chosen.queue_of()))

    rerun(ledger, app, planned(run_id, plan, "b"), "again")

    assert [message.kwargs["step"] for message in messages_in(chosen.queue_of())] == ["b"]


def test_an_artifact_that_is_gone_is_computed_again_with_all_below(ledger, ended, planned) -> None:
    plan = graph({**DIAMOND, "x": ""}).plan()
    run_id = ended(plan, "a* b c* d x*")
    looked_at: list[str] = []

    def has(artifact: Artifact) -> bool:
        looked_at.append(artifact.path)
        return not artifact.path.endswith("/c")

    it = planned(run_id, plan, has_artifact=has)

    assert sorted(looked_at) == [f"{run_id}/{step}" for step in "acx"]
    assert (it.missing, it.reused, it.below) == ({"c": f"{run_id}/c"}, ("a", "b", "x"), ("d",))


def test_an_output_is_taken_over_from_the_run_that_computed_it(ledger, app, ended, planned) -> None:
    plan = graph(DIAMOND).plan()
    first = ended(plan, "a b c d")
    rerun(ledger, app, planned(first, plan, "b"), "second")
    end(ledger, "second", "b d!")
    rerun(ledger, app, planned("second", plan), "third")

    assert ledger.reused("third") == {
        "a": Reused(first, 1),
        "b": Reused("second", 1),
        "c": Reused(first, 1),
    }
    assert json.loads(ledger.run_fields("third")["reuses"]) == sorted([first, "second"])
    assert verify_run(ledger, "third").violations == ()


def test_a_run_that_goes_on_is_refused_and_so_is_a_step_that_there_is_not(
    ledger, app, ended, planned
) -> None:
    plan = graph(DIAMOND).plan()
    run_id = ended(plan, "a")

    with pytest.raises(
        RerunRefused,
        match=f"run {run_id} is running: wait for its end, or end it: orchestrator cancel",
    ):
        planned(run_id, plan)
    end(ledger, run_id, "b c d")
    with pytest.raises(RerunRefused, match=r"has no step 'bb'. Did you mean 'b'?"):
        planned(run_id, plan, "bb")
    shorter = graph({"a": "", "b": "a"}).plan()
    with pytest.raises(
        RerunRefused, match=f"^step 'd' of run {run_id} is not in the pipeline any more[.]$"
    ):
        planned(run_id, shorter, "d")
