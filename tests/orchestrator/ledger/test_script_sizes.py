"""What the script does with many steps, and what it costs."""

from __future__ import annotations

import pytest
import redis

from orchestrator.attempt_id import AttemptId
from orchestrator.definition.options import StepOptions
from orchestrator.definition.pipeline import (
    FunctionCall,
    OutputRef,
    Pipeline,
    Step,
)
from orchestrator.ledger.connection import connect
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.pages import PAGE
from orchestrator.ledger.script import SCRIPT
from orchestrator.ledger.staging import staged_steps
from orchestrator.ledger.states import (
    Outcome,
)
from orchestrator.ledger.values import OwnedAttempt, StagedStep
from orchestrator.plan.compile import compile_pipeline
from tests.support.runs import (
    SETTINGS,
    all_ready,
    begin,
    counts_in,
    graph,
    heads,
    run_state,
    start,
    start_graph,
)
from tests.support.script import keys_and_types


def test_a_commit_may_make_5_000_steps_ready(ledger: Ledger) -> None:
    names = [f"s{i}" for i in range(5000)]
    run_id = start_graph(ledger, {"root": "", **dict.fromkeys(names, "root"), "end": names})

    answer = ledger.commit(
        AttemptId(run_id, "root", 1), begin(ledger, run_id, "root"), "w", Outcome.SUCCEEDED
    )

    assert heads(all_ready(ledger, run_id, answer.ready)) == names
    assert counts_in(ledger.run_fields(run_id)) == {"succeeded": 1, "queued": 5000, "waiting": 1}


def test_a_failure_may_end_5_000_steps(ledger: Ledger) -> None:
    wide = {f"w{i}": "root" for i in range(2500)}
    deep = {f"d{i}": f"d{i - 1}" if i else "root" for i in range(2500)}
    run_id = start_graph(ledger, {"root": "", **wide, **deep})

    answer = ledger.commit(
        AttemptId(run_id, "root", 1), begin(ledger, run_id, "root"), "w", Outcome.FAILED
    )

    assert all_ready(ledger, run_id, answer.ready) == []
    assert counts_in(ledger.run_fields(run_id)) == {"failed": 1, "upstream_failed": 5000}
    assert run_state(ledger, run_id) == "failed"


def test_a_run_may_have_10_000_roots_and_a_step_may_read_them_all(
    ledger: Ledger, redis_client: redis.Redis
) -> None:
    names = [f"s{i}" for i in range(10_000)]
    steps = {name: Step(name, FunctionCall("m:f")) for name in names}
    steps["all"] = Step(
        "all", FunctionCall("m:f", ([OutputRef(name) for name in names],)), tuple(names)
    )
    run_id, chains = start(ledger, compile_pipeline(Pipeline("p", steps)))
    assert heads(all_ready(ledger, run_id, chains)) == names

    # Each with its own message; the commands go in one batch, for speed.
    script = redis_client.register_script(SCRIPT)
    key = [ledger.key(run_id, "run")]
    with redis_client.pipeline(transaction=False) as pipe:
        for name in names:
            script(key, ["claim", name, 1, "c", "w", 6_000_000], pipe)
        for name, (_, token, *_) in zip(names, pipe.execute(), strict=True):
            script(
                key,
                ["commit", name, 1, token, "w", "succeeded", "{}", f'"{name}"', "", 0, ""],
                pipe,
            )
        answers = pipe.execute()
    assert [answer[3] for answer in answers[:-1]] == [[0]] * 9_999

    claim = ledger.claim(AttemptId(run_id, "all", 1), "c", "w")
    assert (claim.is_wide, claim.outputs) == (True, {})
    pages = list(ledger.outputs_for(run_id, "all"))
    assert max(map(len, pages)) == PAGE
    assert [pair for page in pages for pair in page.items()] == [
        (name, f'"{name}"') for name in names
    ]
    assert counts_in(ledger.run_fields(run_id)) == {"succeeded": 10_000, "running": 1}


def test_10_000_steps_are_cancelled_at_once(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {f"s{i}": "" for i in range(10_000)})

    assert ledger.cancel(run_id, "enough") == 10_000
    assert counts_in(ledger.run_fields(run_id)) == {"cancelled": 10_000}


def test_a_chain_is_cut_into_messages_of_max_links(ledger: Ledger) -> None:
    names = [f"s{i}" for i in range(50)]
    plan = graph({name: names[i - 1 : i] for i, name in enumerate(names)}).plan()
    run_id, ready = start(ledger, plan, max_links=20)

    messages = []
    while ready:
        ((_, links),) = ready
        messages.append(len(links))
        for link, following in zip(links, [*links[1:], None], strict=True):
            token = begin(ledger, run_id, link.step)
            follower = following[:2] if following else ("", 0)
            answer = ledger.commit(
                AttemptId(run_id, link.step, 1), token, "w", Outcome.SUCCEEDED, follower=follower
            )
            assert answer.is_chain_going_on == (following is not None)
            ready = answer.ready
            assert not (ready and following)

    assert messages == [20, 20, 10]
    assert run_state(ledger, run_id) == "succeeded"


def test_a_step_takes_little_of_the_servers_memory(ledger: Ledger) -> None:
    # 2 KB a step is the promise; half of that is kept for events of retries and for outputs.
    names = [f"s{i}" for i in range(2000)]
    upstream = {name: [names[i - 1]] if i else [] for i, name in enumerate(names)}
    run_id, _ = start(ledger, graph(upstream).plan())
    for name in names:
        ledger.commit(
            AttemptId(run_id, name, 1), begin(ledger, run_id, name), "w", Outcome.SUCCEEDED
        )

    parts = [f"{ledger.prefix}:{key}" for key in keys_and_types(ledger) if run_id in key]
    used = sum(ledger.client.memory_usage(key, samples=0) for key in parts)

    assert used / len(names) < 1024


def test_links_carry_queue_priority_and_timeout(ledger: Ledger) -> None:
    step = Step("a", FunctionCall("m:f"), (), StepOptions(pool="gpu", priority=9, timeout=0.25))
    _, chains = start(ledger, compile_pipeline(Pipeline("p", {"a": step})))

    assert chains == (("p", (("a", 1, "cuda", 9, 0.25),)),)


def test_steps_are_staged_in_the_order_of_the_listing_as_the_script_says(ledger: Ledger) -> None:
    plan = graph({"z": "a", "a": ""}, {"z": "all_done"}).plan()
    assert list(staged_steps(plan, SETTINGS)) == [
        StagedStep("z", '{"x":0,"q":"cpu","p":5,"s":3,"u":1,"t":"all_done"}', "", "",
                   '{"pool":"cpu","run":"true","upstream":["a"]}'),
        StagedStep("a", '{"x":1,"q":"cpu","p":5,"s":3,"n":"z"}', '["z"]', "",
        '{"pool":"cpu","run":"true"}'),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "rules",
    [["+@all"], ["+@all", "-function"], ["+@all", "-fcall"], ["+@all", "-function", "-fcall"]],
)
def test_a_server_that_lets_us_load_no_function_gets_a_script(
    shared_redis_url: str, redis_client: redis.Redis, ledger: Ledger, rules: list[str]
) -> None:
    redis_client.function_flush("SYNC")
    redis_client.script_flush("SYNC")
    redis_client.acl_setuser("limited", enabled=True, nopass=True, keys=["*"], channels=["*"],
    reset=True, commands=[
        *rules
    ])  # fmt: skip
    with connect(shared_redis_url) as client:
        client.execute_command("AUTH", "limited", "")
        limited = Ledger(client, ledger.prefix)
        run_id = start_graph(limited, {"a": "", "b": "a"})
        held = [
            OwnedAttempt(AttemptId(run_id, "a", 1), "w "),
            OwnedAttempt(AttemptId("gone", "a", 1), "w "),
        ]

        token = begin(limited, run_id, "a")
        assert limited.renew(held, 5.0) == {held[1]: "fenced"}
        assert heads(
            limited.commit(AttemptId(run_id, "a", 1), token, "w", Outcome.SUCCEEDED).ready
        ) == ["b"]

    assert bool(redis_client.function_list()) == (rules == ["+@all"])
    assert begin(ledger, run_id, "b") > token  # and who may load one goes on with the same run
