"""The record says of every attempt what its claim gave it: call, params and outputs, also after
resumes."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest

from orchestrator.attempt_id import AttemptId
from orchestrator.definition.options import StepOptions
from orchestrator.definition.pipeline import (
    FunctionCall,
    OutputRef,
    ParamRef,
    Pipeline,
    ShellCall,
    Step,
    Template,
)
from orchestrator.definition.secrets import SecretValue
from orchestrator.errors import PipelineInvalid
from orchestrator.ledger.states import Outcome, RunState, StepState
from orchestrator.ledger.values import Claim
from orchestrator.plan.compile import compile_pipeline
from orchestrator.record.as_json import record_json
from orchestrator.record.run import read_record
from orchestrator.record.verification import verify_run
from orchestrator.runs.loading import plan_of
from orchestrator.runs.resumption import plan_resume, resume
from orchestrator.runs.stored import StoredDefinition, read_run
from orchestrator.runs.submission import submit

RULES = ("all_success",) * 4 + ("all_done", "always", "one_failed", "none_failed")


class Going:
    """A run under somebody's hand, with what each claim gave."""

    def __init__(self, ledger, app, chosen, pipeline: Pipeline) -> None:
        self.ledger, self.app, self.chosen = ledger, app, chosen
        self.run_id = submit(compile_pipeline(pipeline), ledger, app, chosen)
        self.claims: dict[tuple[str, int], Claim] = {}

    def open(self, state: StepState) -> list[tuple[str, int]]:
        return [
            (step, attempt)
            for step, (is_in, attempt) in self.ledger.states(self.run_id).items()
            if is_in is state
        ]

    def claim(self, step: str) -> Claim:
        attempt = self.ledger.states(self.run_id)[step][1]
        claim = self.ledger.claim(AttemptId(self.run_id, step, attempt), "c", "w")
        assert isinstance(claim, Claim)
        self.claims[step, attempt] = claim
        return claim

    def end(self, step: str, outcome: Outcome = Outcome.SUCCEEDED, output: str = "") -> None:
        attempt = self.ledger.states(self.run_id)[step][1]
        self.ledger.commit(
            AttemptId(self.run_id, step, attempt),
            self.claims[step, attempt].token,
            "w",
            outcome,
            output=output,
        )

    def run(self, *steps: str) -> None:
        for step in steps:
            self.claim(step)
            self.end(step, output=json.dumps([step, len(self.claims)]))

    def resume(self, pipeline: Pipeline, *from_steps: str):
        planned = plan_resume(
            read_run(self.ledger, self.run_id), compile_pipeline(pipeline), self.chosen, from_steps
        )
        resume(self.ledger, self.app, planned)
        return planned

    @property
    def record(self):
        return read_record(self.ledger, self.run_id)


@pytest.fixture
def going(ledger, app, chosen):
    return lambda pipeline: Going(ledger, app, chosen, pipeline)


def assert_told_as_claimed(run: Going) -> None:
    record = run.record
    for (step, number), claim in run.claims.items():
        if step not in record.steps:
            continue
        attempt = next(it for it in record.steps[step].attempts if it.attempt == number)
        received = record.received(step, attempt)
        assert received.spec == claim.spec, (step, number)
        if claim.params_wire:
            assert received.params_wire == claim.params_wire, (step, number)
        assert {name: source.text for name, source in received.sources.items()} == claim.outputs, (
            step,
            number,
        )
    assert verify_run(run.ledger, run.run_id).violations == ()


def random_pipeline(rng: random.Random, names: list[str], params: dict[str, int]) -> Pipeline:
    steps = {}
    for place, name in enumerate(names):
        before = [it for it in names[:place] if rng.random() < 0.4]
        args: tuple = tuple(OutputRef(it) for it in before)
        if rng.random() < 0.5:
            args += (ParamRef("x"),)
        if rng.random() < 0.5:
            args += (rng.randint(0, 2),)
        rule = rng.choice(RULES) if before else "all_success"
        steps[name] = Step(
            name, FunctionCall("m:f", args), tuple(before), StepOptions(trigger=rule)
        )
    return Pipeline("p", steps, params)


@pytest.mark.parametrize("seed", range(60))
def test_every_attempt_is_told_as_its_claim_was(going, seed: int) -> None:
    rng = random.Random(seed)
    names = [f"s{i}" for i in range(rng.randint(2, 7))]
    run = going(random_pipeline(rng, names, {"x": 0}))
    for number in range(1, 4):
        for _ in range(100):
            queued, running = run.open(StepState.QUEUED), run.open(StepState.RUNNING)
            if not queued and not running:
                break
            step, attempt = rng.choice(queued + running)
            if (step, attempt) in queued:
                run.claim(step)
            elif rng.random() < 0.2:
                run.ledger.report_lost(AttemptId(run.run_id, step, attempt), {}, owner="w")
            elif rng.random() < 0.3:
                run.end(step, Outcome.FAILED)
            else:
                run.end(step, output=rng.choice(["", f"{len(run.claims)}", f'"{step}{attempt}"']))
        assert_told_as_claimed(run)
        if run.record.state is RunState.SUCCEEDED:  # which stays as it is
            break
        if number < 3:
            some = rng.sample(names, rng.randint(1, len(names)))
            pipeline = random_pipeline(rng, sorted(some), {"x": rng.randint(0, 1)})
            again = rng.sample(sorted(some), 1)
            run.resume(pipeline, *again)
            assert_told_as_claimed(run)


SPLIT = Pipeline(
    "p",
    {
        "load": Step("load", FunctionCall("m:load", (), {"name": "sun"})),
        "split": Step("split", FunctionCall("m:split", (OutputRef("load"), 0.2)), ("load",)),
        "fit": Step(
            "fit",
            FunctionCall("m:fit", (OutputRef("split"),), {"rate": ParamRef("rate")}),
            ("split",),
        ),
    },
    {"rate": 1, "test_share": 0.2},
)


def other_share(share: float, rate: int = 1) -> Pipeline:
    split = replace(SPLIT.steps["split"], call=FunctionCall("m:split", (OutputRef("load"), share)))
    return replace(
        SPLIT, steps={**SPLIT.steps, "split": split}, params={"rate": rate, "test_share": share}
    )


def failed(going, pipeline: Pipeline = SPLIT) -> Going:
    run = going(pipeline)
    run.run("load", "split")
    run.claim("fit")
    run.end("fit", Outcome.FAILED)
    return run


def test_a_kept_step_has_the_arguments_it_ran_with_and_says_what_they_would_be_now(going) -> None:
    run = failed(going)
    planned = run.resume(other_share(0.5))
    run.run("fit")

    steps = record_json(run.record)["steps"]
    assert planned.differing == ("split",)
    output = steps["split"]["arguments"]["args"][0]["output"]
    assert (output["step"], output["attempt"], output["type"], len(output["sha256"])) == (
        "load",
        1,
        "list",
        64,
    )
    assert steps["split"]["arguments"]["args"][1] == 0.2
    assert steps["split"]["params"] == {"rate": 1, "test_share": 0.2}
    assert steps["split"]["other_arguments"] == {"args[1]": {"was": 0.2, "now": 0.5}}
    assert steps["fit"]["params"] == {"rate": 1, "test_share": 0.5}
    assert steps["load"]["arguments"] == {"uses": "m:load", "with": {"name": "sun"}}
    assert steps["fit"]["arguments"]["with"] == {"rate": 1}
    assert verify_run(run.ledger, run.run_id).violations == ()


def test_whether_a_kept_step_differs_goes_by_what_it_ran_with_not_by_the_last_resume(going) -> None:
    run = failed(going)
    run.resume(other_share(0.5))
    run.claim("fit")
    run.end("fit", Outcome.FAILED)

    still = run.resume(other_share(0.5))
    run.claim("fit")
    run.end("fit", Outcome.FAILED)
    assert still.differing == ("split",)

    back = run.resume(other_share(0.2))
    assert back.differing == ()
    assert run.record.differences("split") == {}


def test_an_earlier_attempt_keeps_its_own_arguments(going) -> None:
    run = failed(going)
    run.resume(other_share(0.5, rate=2), "load")
    run.run("load", "split", "fit")

    split = record_json(run.record)["steps"]["split"]
    assert "other_arguments" not in split
    first, second = split["attempts"]
    assert first["arguments"]["args"][1] == 0.2
    assert first["params"] == {"rate": 1, "test_share": 0.2}
    assert split["arguments"]["args"][1] == 0.5
    assert "arguments" not in second
    read = [it["args"][0]["output"] for it in (first["arguments"], split["arguments"])]
    assert [it["attempt"] for it in read] == [1, 2]
    assert read[0]["sha256"] != read[1]["sha256"]


def test_an_attempt_that_died_has_its_arguments_too(going) -> None:
    run = going(SPLIT)
    run.run("load")
    run.claim("split")
    run.ledger.report_lost(AttemptId(run.run_id, "split", 1), {}, owner="w")

    split = record_json(run.record)["steps"]["split"]

    assert split["attempts"][0]["outcome"] == "lost"
    assert split["arguments"]["args"][1] == 0.2
    assert "arguments" not in record_json(run.record)["steps"]["fit"]  # never began


def test_large_values_are_named_by_digest_and_references_by_their_value(going) -> None:
    big = list(range(1000))
    seven = ParamRef("x", ("k", 0))
    command = Template(("echo ", seven, " ", OutputRef("a", ("n",))))
    steps = {
        "a": Step(
            "a", FunctionCall("m:f", (big, ParamRef("big")), {"text": Template(("day ", seven))})
        ),
        "b": Step("b", ShellCall(command), ("a",)),
        "c": Step(
            "c",
            FunctionCall("m:f", ([OutputRef("a"), 1],), {"t": Template(("at ", OutputRef("b")))}),
            ("a", "b"),
        ),
    }
    run = going(Pipeline("p", steps, {"big": "z" * 5000, "x": {"k": [7]}}))
    run.run("a", "b", "c")

    told = record_json(run.record)["steps"]

    first, second = told["a"]["arguments"]["args"]
    assert (first["large"]["type"], second["large"]["type"]) == ("list", "str")
    assert first["large"]["size_bytes"] > 1000
    assert told["a"]["params"]["x"] == {"k": [7]}
    assert told["a"]["params"]["big"] == second
    assert told["a"]["arguments"]["with"] == {"text": "day 7"}
    assert (
        told["b"]["arguments"]["run"] == 'echo ${{ params.x["k"][0] }} ${{ steps.a.output["n"] }}'
    )
    assert told["b"]["arguments"]["values"]['params.x["k"][0]'] == 7
    assert told["b"]["arguments"]["values"]['steps.a.output["n"]']["output"]["path"] == ["n"]
    assert told["c"]["arguments"]["args"][0][1] == 1
    assert told["c"]["arguments"]["with"]["t"]["text"][0] == "at "
    assert len(json.dumps(told)) < 10_000


def test_a_value_of_another_type_is_another_value(going) -> None:
    run = failed(going, other_share(1))
    planned = run.resume(other_share(True))

    assert planned.differing == ("split",)
    assert planned.params_changed == {"test_share": True}
    assert verify_run(run.ledger, run.run_id).violations == ()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda client, key: client.hdel(key("past"), "params 1"), "param 'test_share' changed"),
        (
            lambda client, key: client.hset(key("run"), "params", '{"rate":9,"test_share":0.5}'),
            "param 'rate' is another one",
        ),
        (lambda client, key: client.hset(key("past"), "spec 7 split", "{}"), "resume 7 replaced"),
        (
            lambda client, key: client.hset(key("past"), "params 1", '{"test_share":0.2}'),
            "read param 'rate'",
        ),
    ],
)
def test_verify_finds_a_record_that_lost_what_steps_were_given(going, spoil, told: str) -> None:
    run = failed(going)
    run.resume(other_share(0.5))
    run.run("fit")
    assert verify_run(run.ledger, run.run_id).violations == ()

    spoil(run.ledger.client, lambda part: run.ledger.key(run.run_id, part))

    assert any(told in sentence for sentence in verify_run(run.ledger, run.run_id).violations)


def test_a_run_that_is_never_resumed_keeps_nothing_beside_what_it_kept_before(going) -> None:
    run = going(SPLIT)
    run.run("load", "split", "fit")

    assert run.ledger.client.exists(run.ledger.key(run.run_id, "past")) == 0


def test_a_secret_is_asked_for_again_though_the_file_of_the_pipeline_is_gone(going, chosen) -> None:
    fit = Step("fit", FunctionCall("m:fit", (ParamRef("token"),)))
    run = going(Pipeline("p", {"fit": fit}, {"token": SecretValue("sesame"), "rows": 1}))
    run.claim("fit")
    run.end("fit", Outcome.FAILED)
    recorded = read_run(run.ledger, run.run_id)

    with pytest.raises(
        PipelineInvalid, match=r"param 'token' cannot be used again: it is a secret.*-p token=@FILE"
    ):
        plan_of(StoredDefinition(recorded), [], chosen, recorded.params)
    plan, _ = plan_of(StoredDefinition(recorded), ["token=other"], chosen, recorded.params)
    planned = plan_resume(recorded, plan, chosen)
    resume(run.ledger, run.app, planned)

    assert planned.params_changed == {}
    assert "other" not in repr(planned.detail)
    assert run.claim("fit").secrets == {"token": "other"}
    assert verify_run(run.ledger, run.run_id).violations == ()
