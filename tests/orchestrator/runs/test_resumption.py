"""What a resume keeps, what it runs anew, by which plan, and when it is refused."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

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
from orchestrator.errors import PipelineInvalid
from orchestrator.ledger.staging import staged_steps
from orchestrator.ledger.states import StepState
from orchestrator.messages.queues import queue_keys
from orchestrator.plan.compile import compile_pipeline
from orchestrator.plan.plan import Plan
from orchestrator.record.run import read_record
from orchestrator.record.verification import verify_run
from orchestrator.runs.resumption import plan_resume, resume
from orchestrator.runs.stored import StoredDefinition, read_run
from orchestrator.settings.pools import PoolSettings
from tests.support.resumptions import end
from tests.support.rules import set_back
from tests.support.runs import (
    SETTINGS,
    graph,
    random_graph,
    run_state,
    start,
    states_of,
)

DIAMOND = {"a": "", "b": "a", "c": "a", "d": "b c"}


def test_what_succeeded_is_kept_and_all_else_runs(
    ledger, app, chosen, submitted, planned, messages_in
) -> None:
    plan = graph(DIAMOND).plan()
    run_id = submitted(plan, "a b! c")
    ledger.client.delete(*queue_keys(chosen.queue_of()))

    resumption = planned(run_id, plan)
    resume(ledger, app, resumption)

    assert (resumption.resets, resumption.again, resumption.kept) == ((("b", 1), ("d", 1)), (), 2)
    assert resumption.staged == ()  # nothing changed
    assert states_of(ledger, run_id) == {
        "a": "succeeded",
        "b": "queued",
        "c": "succeeded",
        "d": "waiting",
    }
    assert [
        (message.kwargs["step"], message.kwargs["attempt"])
        for message in messages_in(chosen.queue_of())
    ] == [("b", 2)]
    end(ledger, run_id, "b d")
    assert ledger.run_fields(run_id)["state"] == "succeeded"
    record = read_record(ledger, run_id)
    assert (record.resumes, len(record.steps["a"].attempts), len(record.steps["b"].attempts)) == (
        1,
        1,
        2,
    )


def test_from_runs_a_step_and_all_below_it_again_by_the_edges_that_the_user_wrote(
    ledger, app, submitted, planned
):
    plan = graph({**DIAMOND, "e": "d a", "x": "", "y": ""}).plan()  # a -> e is redundant
    run_id = submitted(plan, "a b c x d e y!")

    resumption = planned(run_id, plan, "c")
    assert planned(run_id, plan, "a").again == ("a", "b", "c", "d", "e")
    resume(ledger, app, resumption)

    assert resumption.again == ("c", "d", "e")
    end(ledger, run_id, "y c d e")
    record = read_record(ledger, run_id)
    assert {name: len(step.attempts) for name, step in record.steps.items()} == {
        "a": 1, "b": 1, "c": 2, "d": 2, "e": 2, "x": 1, "y": 2
    }  # fmt: skip


def test_cancelled_and_skipped_steps_run_too_and_those_that_only_a_failure_let_run_are_decided_anew(
    ledger, app, submitted, planned
) -> None:
    rules = {"alarm": "one_failed", "calm": "one_failed"}
    plan = graph({"a": "", "b": "a", "alarm": "b", "calm": "a", "c": "", "d": "c"}, rules).plan()
    run_id = submitted(plan, "a b! alarm")
    ledger.cancel(run_id, "enough")
    assert states_of(ledger, run_id) == {
        "a": "succeeded", "b": "failed", "alarm": "succeeded", "calm": "skipped", "c": "cancelled",
        "d": "cancelled"
    }  # fmt: skip

    resume(ledger, app, planned(run_id, plan))

    assert states_of(ledger, run_id) == {
        "a": "succeeded", "b": "queued", "alarm": "waiting", "calm": "skipped", "c": "queued",
        "d": "waiting"
    }  # fmt: skip
    end(ledger, run_id, "b c d")
    assert states_of(ledger, run_id)["alarm"] == "skipped"
    assert ledger.run_fields(run_id)["state"] == "succeeded"
    assert verify_run(ledger, run_id).violations == ()


DECIDED = {
    "gate": "",
    "page": "gate",
    "told": "page",
    "work": "gate",
    "tidy": "work",
    "after": "tidy",
    "x": "",
}


RULES_OF_DECIDED = {"page": "one_failed", "tidy": "always", "x": "always"}


def test_what_was_decided_by_a_step_that_runs_again_is_decided_again_with_all_below_it(
    ledger, app, submitted, planned
) -> None:
    plan = graph(DECIDED, RULES_OF_DECIDED).plan()
    run_id = submitted(plan, "x gate! page told tidy after")

    resumption = planned(run_id, plan)
    resume(ledger, app, resumption)

    assert resumption.again == resumption.judged_anew == ("page", "told", "tidy", "after")
    assert ledger.outputs(run_id) == {"x": '"x"'}
    end(ledger, run_id, "gate work tidy after")
    assert states_of(ledger, run_id) == {
        "gate": "succeeded", "page": "skipped", "told": "skipped", "work": "succeeded",
        "tidy": "succeeded",
        "after": "succeeded", "x": "succeeded",
    }  # fmt: skip
    record = read_record(ledger, run_id)
    attempts = {name: len(step.attempts) for name, step in record.steps.items()}
    assert attempts == {"gate": 2, "page": 1, "told": 1, "work": 1, "tidy": 2, "after": 2, "x": 1}
    assert verify_run(ledger, run_id).violations == ()


@pytest.mark.parametrize("rule", ["all_done", "always", "one_failed"])
def test_a_step_is_decided_anew_below_one_that_gets_no_attempt(
    ledger, app, submitted, planned, rule: str
) -> None:
    """`work` did not run the first time and does not run the second time; what waited for it is
    told twice."""
    plan = graph({"gate": "", "work": "gate", "tell": "work"}, {"tell": rule}).plan()
    run_id = submitted(plan, "gate! tell")

    resume(ledger, app, planned(run_id, plan))
    end(ledger, run_id, "gate! tell")

    record = read_record(ledger, run_id)
    assert {name: len(step.attempts) for name, step in record.steps.items()} == {
        "gate": 2,
        "work": 0,
        "tell": 2,
    }
    assert verify_run(ledger, run_id).violations == ()


def test_from_decides_anew_what_hangs_on_the_steps_that_it_names(
    ledger, app, submitted, planned
) -> None:
    plan = graph(DECIDED, RULES_OF_DECIDED).plan()
    run_id = submitted(plan, "x gate work! tidy after")

    resumption = planned(run_id, plan, "after")

    assert (resumption.again, resumption.judged_anew) == (("tidy", "after"), ("tidy",))


def names_in(states, state: str) -> set[str]:
    return {name for name, it in states.items() if it == state}


@given(seed=st.integers(0, 2**32))
@hypothesis_settings(max_examples=60)
def test_what_a_resume_keeps_of_any_pipeline_is_what_the_rule_keeps(new_ledger, seed: int) -> None:
    rng, ledger = random.Random(seed), new_ledger()
    made = random_graph(rng, 10, other_rules=rng.choice([0.3, 0.8]))
    plan = made.plan()
    run_id, _ = start(ledger, plan)
    for _ in range(3):
        while queued := sorted(
            ledger.attempts_in(run_id, list(plan.pipeline.steps), StepState.QUEUED)
        ):
            step = rng.choice(queued)
            end(ledger, run_id, step + "!" * (rng.random() < 0.3))
        states = states_of(ledger, run_id)
        asked = rng.sample(sorted(states), rng.randint(0, 1))
        if run_state(ledger, run_id) == "succeeded":
            break
        expected = set_back(made.upstream, made.upstream, names_in(states, "succeeded"), asked)

        resumption = plan_resume(read_run(ledger, run_id), plan, SETTINGS, asked)
        assert {name for name, _ in resumption.resets} == expected
        assert set(resumption.again) == expected & names_in(states, "succeeded")
        ledger.resume(run_id, resumption.resets, again=resumption.again, staged=resumption.staged)

        assert names_in(states_of(ledger, run_id), "succeeded") == states.keys() - expected
        assert verify_run(ledger, run_id).violations == ()


def test_steps_that_are_new_run_and_those_that_are_gone_are_dropped(
    ledger, app, submitted, planned
) -> None:
    run_id = submitted(graph(DIAMOND).plan(), "a b! c")
    other = graph({"a": "", "c": "a", "n": "c", "d": "c n"}).plan()

    resumption = planned(run_id, other)
    resume(ledger, app, resumption)

    assert (resumption.new, resumption.gone) == (("n",), ("b",))
    assert states_of(ledger, run_id) == {
        "a": "succeeded",
        "c": "succeeded",
        "n": "queued",
        "d": "waiting",
    }
    end(ledger, run_id, "n d")
    record = read_record(ledger, run_id)
    assert (record.state.value, list(record.steps)) == ("succeeded", ["a", "c", "n", "d"])


def test_a_kept_step_with_a_new_upstream_proves_nothing_about_that(
    ledger, app, submitted, planned
) -> None:
    run_id = submitted(graph({"v": "", "x": "v"}).plan(), "v x!")

    resume(ledger, app, planned(run_id, graph({"u": "", "v": "u", "x": "v u"}).plan()))
    assert states_of(ledger, run_id) == {"u": "queued", "v": "succeeded", "x": "waiting"}
    end(ledger, run_id, "u x")

    assert run_state(ledger, run_id) == "succeeded"
    assert verify_run(ledger, run_id).violations == ()


def test_a_step_that_comes_back_is_run_and_counts_its_attempts_on(
    ledger, app, submitted, planned
) -> None:
    with_b, without = graph(DIAMOND).plan(), graph({"a": "", "d": "a"}).plan()
    run_id = submitted(with_b, "a b c d!")
    resume(ledger, app, planned(run_id, without))
    end(ledger, run_id, "d!")

    resume(ledger, app, planned(run_id, with_b))

    record = read_record(ledger, run_id)
    assert {name: step.state for name, step in record.steps.items()} == {
        "a": StepState.SUCCEEDED, "b": StepState.QUEUED, "c": StepState.QUEUED,
        "d": StepState.WAITING
    }  # fmt: skip
    end(ledger, run_id, "b c d")
    attempts = {
        name: [attempt.attempt for attempt in step.attempts]
        for name, step in read_record(ledger, run_id).steps.items()
    }
    assert attempts == {"a": [1], "b": [1, 2], "c": [1, 2], "d": [1, 2, 3]}


def test_changed_options_and_calls_take_effect_and_a_kept_step_with_another_call_is_told(
    ledger, app, chosen, submitted, planned
) -> None:
    def pipeline(argument: int, timeout: float | None) -> Plan:
        steps = [
            Step("a", FunctionCall("m:f", (argument,))),
            Step(
                "b",
                ShellCall("false"),
                ("a",),
                StepOptions(timeout=timeout, pool="gpu" if timeout else None),
            ),
        ]
        return compile_pipeline(Pipeline("p", {step.name: step for step in steps}))

    run_id = submitted(pipeline(1, None), "a b!")

    assert planned(run_id, pipeline(1, 7.0)).differing == ()
    resumption = planned(run_id, pipeline(2, 7.0))
    resume(ledger, app, resumption)

    assert resumption.differing == ("a",)
    assert ledger.entries(run_id)["b"].timeout_s == 7.0
    assert json.loads(ledger.run_fields(run_id)["lists"]) == [
        [chosen.queue_of(), 3],
        [chosen.queue_of("gpu"), 3],
    ]
    assert states_of(ledger, run_id) == {"a": "succeeded", "b": "queued"}


def test_queues_are_those_of_the_present_settings(ledger, app, chosen, submitted, planned) -> None:
    plan = graph(DIAMOND).plan()
    run_id = submitted(plan, "a b!")
    ledger.cancel(run_id, "")
    now = chosen.model_copy(
        update={"pools": {"cpu": PoolSettings(queue="cpu.local-2"), "gpu": PoolSettings()}}
    )

    resume(ledger, app, planned(run_id, plan, settings=now))

    assert {entry.queue for entry in ledger.entries(run_id).values()} == {"cpu.local-2"}
    assert json.loads(ledger.run_fields(run_id)["lists"]) == [["cpu.local-2", 3]]
    ledger.client.delete(*queue_keys("cpu.local-2"))


def with_params(**params: object) -> Plan:
    steps = [
        Step("a", ShellCall(Template(("echo ", ParamRef("x"))))),
        Step(
            "b", FunctionCall("m:f", (OutputRef("a"),), {"at": [ParamRef("y", ("k", 0))]}), ("a",)
        ),
    ]
    return compile_pipeline(Pipeline("p", {step.name: step for step in steps}, params))


def test_changed_params_are_recorded_and_a_kept_step_that_read_one_is_told(
    ledger, app, submitted, planned
) -> None:
    run_id = submitted(with_params(x=1, y={"k": [2]}), "a b!")

    assert planned(run_id, with_params(x=1, y={"k": [3]})).differing == ()
    resumption = planned(run_id, with_params(x=(5,), y={"k": [2]}))
    resume(ledger, app, resumption)

    assert (resumption.differing, resumption.params_changed) == (("a",), {"x": {"$tuple": [5]}})
    assert json.loads(ledger.run_fields(run_id)["params"]) == {
        "x": {"$tuple": [5]},
        "y": {"k": [2]},
    }
    (event,) = [event for event in ledger.events(run_id) if event.kind == "run.resumed"]
    assert event.fields["params"] == {"x": {"$tuple": [5]}}


def test_a_deadline_and_alerts_are_those_that_the_pipeline_has_now(
    ledger, app, submitted, planned
) -> None:
    plain = graph(DIAMOND).plan()
    bound = replace(plain, pipeline=replace(plain.pipeline, deadline_s=60.0, alerts=("json://x",)))
    run_id = submitted(bound, "a b! c")
    resume(ledger, app, planned(run_id, bound))
    assert ledger.run_fields(run_id)["deadline_s"] == "60"
    end(ledger, run_id, "b!")

    resume(ledger, app, planned(run_id, plain))

    fields = ledger.run_fields(run_id)
    assert {"deadline_s", "deadline_at"} & fields.keys() == set()
    assert fields["alerts"] == "[]"


def test_a_change_of_code_is_an_event(ledger, app, submitted, planned, tmp_path: Path) -> None:
    for name in ("resumed_code.py", "resumed_more.py"):
        (tmp_path / name).write_text("def f():\n    raise ValueError\n")
    steps = {name: Step(name, FunctionCall(f"resumed_{name}:f")) for name in ("code", "more")}
    plan = compile_pipeline(Pipeline("p", steps, import_path=str(tmp_path)))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        run_id = submitted(plan, "code! more")
    # nor when the modules are not to be found from here
    assert planned(run_id, plan).code_changed == ()

    (tmp_path / "resumed_code.py").write_text("def f():\n    return 1\n")
    resumption = planned(run_id, plan)
    resume(ledger, app, resumption)

    assert resumption.code_changed == ("resumed_code.py",)
    told = {event.kind: event.fields for event in ledger.events(run_id)}
    assert (
        told["run.resumed"]["code_changed"]
        == told["run.code_changed"]["changed"]
        == ["resumed_code.py"]
    )
    end(ledger, run_id, "code!")
    assert planned(run_id, plan).code_changed == ()


def test_a_pipeline_read_back_from_the_record_is_the_one_that_was_submitted(
    ledger, chosen, submitted
) -> None:
    steps = [
        Step("b", ShellCall(Template(("echo ", OutputRef("a", ("k", 0)), "'"))), ("a",)),
        Step("a", FunctionCall("m:f", (1, (2, "ü")), {"x": ParamRef("x"), "n": float("inf"),
        "d": {1: ParamRef("y")}})),
        Step(
            "c",
            ShellCall("true"),
            ("b", "a"),
            StepOptions(pool="gpu", priority=2, timeout=1.5, queue_timeout=9, lost_attempts=1,
            retries=3,
                        retry_on=("ValueError",), trigger="all_done", description="last"),
        ),
    ]  # fmt: skip
    params = {"x": (1, {"deep": None}), "y": float("-inf")}
    whole = Pipeline(
        "rich", {s.name: s for s in steps}, params, "", "/some/folder", 60.0, ("json://x",)
    )
    pipelines = [
        whole,
        *(random_graph(random.Random(seed), 12, other_rules=0.5).pipeline() for seed in range(20)),
    ]

    for pipeline in pipelines:
        run_id = submitted(compile_pipeline(pipeline), "")
        ledger.cancel(run_id, "")
        built = StoredDefinition(read_run(ledger, run_id)).build(pools=chosen.pools)
        assert list(built.steps) == list(pipeline.steps)
        assert (built.params, built.deadline_s, built.alerts, built.import_path) == (
            pipeline.params, pipeline.deadline_s, pipeline.alerts, pipeline.import_path
        )  # fmt: skip
        staged = {step.step: step for step in staged_steps(compile_pipeline(built), chosen)}
        assert staged == ledger.staged(run_id)


def test_of_a_recorded_pipeline_only_params_that_are_read_by_reference_can_change(
    ledger, submitted
) -> None:
    run_id = submitted(with_params(x=1, y={"k": [2]}, baked=3), "")

    recorded = StoredDefinition(read_run(ledger, run_id))

    assert {name: param.type for name, param in recorded.params.items()} == {"x": int, "y": dict}
    assert recorded.build({"x": 9}).params == {"x": 9, "y": {"k": [2]}, "baked": 3}
    with pytest.raises(
        PipelineInvalid,
        match="step 'a' is for pool 'cpu', which is not among the settings any more",
    ):
        recorded.build(pools=["cpus"])
