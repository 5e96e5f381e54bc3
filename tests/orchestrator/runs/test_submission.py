"""From a plan to a run: what the ledger gets, what is sent, and in which order."""

from __future__ import annotations

import json
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from celery import Celery

from orchestrator.definition.builder import PipelineBuilder
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
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.staging import staged_steps
from orchestrator.ledger.values import RunExists
from orchestrator.plan.compile import compile_pipeline
from orchestrator.runs.submission import RUN_ID_SHAPE, new_run_id, plan_links, run_fields, submit
from orchestrator.settings.model import Settings
from tests.support.runs import graph, states_of


def test_the_run_is_in_the_ledger_and_its_roots_are_on_their_way(
    ledger: Ledger, app: Celery, chosen: Settings, messages_in
) -> None:
    plan = graph({"a": "", "b": "a", "x": "", "j": "b x"}).plan()

    run_id = submit(plan, ledger, app, chosen)

    assert states_of(ledger, run_id) == {
        "a": "queued",
        "b": "waiting",
        "x": "queued",
        "j": "waiting",
    }
    sent = messages_in(chosen.queue_of())
    assert [message.kwargs for message in sent] == [
        {"run_id": run_id, "step": step, "attempt": 1} for step in "ax"
    ]
    assert [task["kwargs"]["step"] for task in sent[0].embed["chain"]] == ["b"]
    fields = ledger.run_fields(run_id)
    assert (fields["pipeline"], fields["params"], fields["import_path"]) == ("p", "{}", "")
    assert ledger.active_runs() == ledger.recent_runs(9) == [run_id]


def test_a_second_submit_of_a_run_id_sends_nothing(
    ledger: Ledger, app: Celery, chosen: Settings, messages_in
) -> None:
    plan = graph({"a": ""}).plan()
    assert submit(plan, ledger, app, chosen, "mine") == "mine"

    with pytest.raises(RunExists):
        submit(plan, ledger, app, chosen, "mine")

    assert len(messages_in(chosen.queue_of())) == 1


def test_a_pipeline_without_steps_ends_at_once(
    ledger: Ledger, app: Celery, chosen: Settings
) -> None:
    run_id = submit(graph({}).plan(), ledger, app, chosen)

    assert ledger.run_fields(run_id)["state"] == "succeeded"


def test_200_submits_at_once_in_threads_are_as_right_as_one_after_the_other(
    ledger: Ledger, app: Celery, chosen: Settings, messages_in
) -> None:
    """Long and short pipelines side by side: no thread gets the figures of another's messages, or
    another's chain."""
    plans = [
        graph({f"{'s' * chars}{i}": f"{'s' * chars}{i - 1}" if i else "" for i in range(25)}).plan()
        for chars in (1, 60, 190)
    ]
    alone = [int(run_fields(plan, chosen, RUN_ID_SHAPE, "")["max_links"]) for plan in plans]
    assert len(set(alone)) == 3
    together = Barrier(200)

    def submit_one(number: int) -> str:
        together.wait()
        return submit(plans[number % 3], ledger, app, chosen)

    with ThreadPoolExecutor(200) as threads:
        run_ids = list(threads.map(submit_one, range(200)))

    assert len(set(run_ids)) == 200
    expected = {
        run_id: (alone[n % 3], next(iter(plans[n % 3].upstream)))
        for n, run_id in enumerate(run_ids)
    }
    sent = messages_in(chosen.queue_of())
    assert Counter(message.kwargs["run_id"] for message in sent) == Counter(run_ids)
    for message in sent:
        run_id = message.kwargs["run_id"]
        assert (1 + len(message.embed["chain"]), message.kwargs["step"]) == expected[run_id]
        assert {link["kwargs"]["run_id"] for link in message.embed["chain"]} == {run_id}
        assert int(ledger.run_fields(run_id)["max_links"]) == expected[run_id][0]


def test_run_ids_are_alike_differ_and_sort_by_time() -> None:
    ids = [new_run_id() for _ in range(1000)]

    assert len(set(ids)) == 1000
    assert all(re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{10}", run_id) for run_id in ids)
    assert {len(run_id) for run_id in ids} == {len(RUN_ID_SHAPE)}
    seconds = [run_id[:15] for run_id in ids]
    assert seconds == sorted(seconds)


def test_a_step_is_staged_with_all_that_a_worker_needs(chosen: Settings) -> None:
    steps = [
        Step("a", FunctionCall("m:f", (1, (2, "ü")), {"x": ParamRef("x"), "n": float("nan")})),
        Step("b", ShellCall(Template(("echo ", OutputRef("a", ("k", 0)))))),
        Step(
            "c",
            FunctionCall("m:g", ([OutputRef("b"), {"deep": OutputRef("a")}, OutputRef("b")],)),
            ("b", "a"),
            StepOptions(
                pool="gpu",
                priority=2,
                timeout=1.5,
                retries=3,
                retry_on=("ValueError",),
                trigger="all_done",
            ),
        ),
    ]
    plan = compile_pipeline(Pipeline("p", {step.name: step for step in steps}))

    a, b, c = staged_steps(plan, chosen)

    cpu, gpu = chosen.queue_of("cpu"), chosen.queue_of("gpu")
    assert json.loads(a.graph) == {"x": 0, "q": cpu, "p": 5, "s": 3, "m": 1}
    assert json.loads(a.spec) == {
        "pool": "cpu",
        "uses": "m:f",
        "args": [1, {"$tuple": [2, "ü"]}],
        "with": {"x": {"$param": ["x"]}, "n": {"$float": "nan"}},
    }
    assert (a.inputs, json.loads(a.children), json.loads(b.inputs)) == ("", ["c"], ["a"])
    assert json.loads(b.spec) == {
        "pool": "cpu",
        "run": {"$text": ["echo ", {"$output": ["a", "k", 0]}]},
    }
    assert json.loads(c.graph) == {"x": 2, "q": gpu, "p": 2, "u": 2, "t": "all_done", "l": 1.5}
    assert (json.loads(c.inputs), c.children) == (["b", "a"], "")
    spec = json.loads(c.spec)
    assert (spec["upstream"], spec["options"]) == (
        ["b", "a"],
        {"timeout": 1.5, "retries": 3, "retry_on": ["ValueError"]},
    )


def test_the_first_messages_are_the_links_of_the_plan(
    ledger: Ledger, app: Celery, chosen: Settings, messages_in
) -> None:
    plan = graph({"a": "", "b": "a"}).plan()

    links = plan_links(plan, chosen)
    submit(plan, ledger, app, chosen)

    (message,) = messages_in(chosen.queue_of())
    assert message.kwargs["step"] == links["a"].step
    (rest,) = message.embed["chain"]
    assert (rest["kwargs"]["step"], rest["options"]["queue"]) == (links["b"].step, links["b"].queue)


def test_deadline_and_alerts_of_the_pipeline_are_kept(
    ledger: Ledger, app: Celery, chosen: Settings
) -> None:
    builder = PipelineBuilder("p", deadline=30 * 86400, alerts=["slack://$TOKEN"])
    builder.add("a", run="true")

    fields = ledger.run_fields(submit(compile_pipeline(builder.build()), ledger, app, chosen))

    assert fields["deadline_s"] == "2592000"
    assert int(fields["deadline_at"]) - int(fields["created_at"]) == 2592000 * 1_000_000
    assert json.loads(fields["alerts"]) == ["slack://$TOKEN"]
