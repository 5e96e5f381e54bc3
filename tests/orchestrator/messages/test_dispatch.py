"""Sending: in batches, in order, to the right queue."""

from __future__ import annotations

import pytest
import redis
from celery import Celery

from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.values import Chain, Link, Ready
from orchestrator.messages.dispatch import Dispatcher
from orchestrator.messages.queues import queue_keys, queue_length
from orchestrator.settings.model import Settings
from tests.support.runs import SETTINGS, graph, start


def replies_written(client: redis.Redis) -> int:
    """Return how often the server has answered: once for all the commands that it read together."""
    return int(client.info("stats")["total_writes_processed"])


def test_2_000_chains_go_out_in_few_round_trips_and_in_order(
    app: Celery, ledger: Ledger, chosen: Settings, redis_client: redis.Redis, messages_in
) -> None:
    queue = chosen.queue_of()
    chains = [
        Chain("p", (Link(f"s{i}", 1, queue, 5, 0), Link(f"t{i}", 1, queue, 5, 0)))
        for i in range(2000)
    ]
    before = replies_written(redis_client)

    Dispatcher(app, ledger).send("run", Ready(chains))

    # Four batches. The server reads a socket piece by piece, 16 KiB at most and less when it is
    # busy, and answers after each piece; sent one by one, each message would get an answer of its
    # own.
    assert replies_written(redis_client) - before < len(chains)
    assert [message.kwargs["step"] for message in messages_in(queue)] == [
        f"s{i}" for i in range(2000)
    ]
    assert queue_length(redis_client, queue) == 2000


def test_a_message_names_the_step_and_carries_the_rest_of_its_chain(
    app: Celery, ledger: Ledger, chosen: Settings, messages_in
) -> None:
    queue = chosen.queue_of()

    Dispatcher(app, ledger).send(
        "run", Ready([Chain("churn", tuple(Link(step, 1, queue, 5, 0) for step in "abc"))])
    )

    (message,) = messages_in(queue)
    assert message.headers["task"] == "pipeline.step"
    assert message.headers["shadow"] == "churn.a"
    assert (message.args, message.kwargs) == ([], {"run_id": "run", "step": "a", "attempt": 1})
    # Celery takes the last one next.
    assert [task["kwargs"]["step"] for task in message.embed["chain"]] == ["c", "b"]
    assert [callback["task"] for callback in message.embed["errbacks"]] == ["pipeline.failure"]


def test_each_chain_goes_to_the_queue_of_its_first_step(
    app: Celery, ledger: Ledger, chosen: Settings, messages_in
) -> None:
    cpu, gpu = chosen.queue_of("cpu"), chosen.queue_of("gpu")

    first, other = (Link("a", 1, cpu, 5, 0), Link("b", 1, gpu, 5, 0)), (Link("c", 1, gpu, 5, 0),)
    Dispatcher(app, ledger).send("run", Ready([Chain("p", first), Chain("p", other)]))

    assert [message.kwargs["step"] for message in messages_in(cpu)] == ["a"]
    assert [message.kwargs["step"] for message in messages_in(gpu)] == ["c"]


def test_a_lower_number_is_taken_first(
    app: Celery, ledger: Ledger, chosen: Settings, redis_client: redis.Redis, messages_in
) -> None:
    queue = chosen.queue_of()

    links = [Link(f"p{priority}", 1, queue, priority, 0) for priority in range(9, -1, -1)]
    Dispatcher(app, ledger).send("run", Ready(Chain("p", (link,)) for link in links))

    taken = [int(message.kwargs["step"][1:]) for message in messages_in(queue)]
    # Redis has four lists for ten priorities; within a list the first comes first.
    assert [priority // 3 for priority in taken] == [0] * 3 + [1] * 3 + [2] * 3 + [3]
    assert [redis_client.llen(key) for key in queue_keys(queue)] == [3, 3, 3, 1]
    assert queue_length(redis_client, queue) == 10


def test_nothing_to_send_sends_nothing(
    app: Celery, ledger: Ledger, redis_client: redis.Redis
) -> None:
    before = int(redis_client.info("stats")["total_connections_received"])

    Dispatcher(app, ledger).send("run", Ready())

    assert int(redis_client.info("stats")["total_connections_received"]) == before


def test_what_stands_in_the_front_of_a_run_goes_out_page_by_page(
    app: Celery, ledger: Ledger, redis_client: redis.Redis, messages_in
) -> None:
    paged = Ledger(redis_client, ledger.prefix, page=3)
    names = [f"s{i}" for i in range(20)]
    run_id, ready = start(paged, graph(dict.fromkeys(names, "")).plan())
    assert (ready.has_more, len(ready)) == (True, 3)

    assert Dispatcher(app, paged).send(run_id, ready)

    assert [message.kwargs["step"] for message in messages_in(SETTINGS.queue_of())] == names
    assert not redis_client.exists(paged.key(run_id, "front"))


def test_what_stands_in_the_front_is_left_to_others_when_the_ledger_does_not_answer(
    app: Celery, ledger: Ledger, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    class Away(Ledger):
        def go_on(self, run_id: str) -> Ready:
            raise redis.ConnectionError("gone")

    paged = Away(redis_client, ledger.prefix, page=3)
    run_id, ready = start(paged, graph({f"s{i}": "" for i in range(20)}).plan())

    assert not Dispatcher(app, paged).send(run_id, ready)

    assert "A coordinator will go on" in caplog.text
    redis_client.hincrby(paged.key(run_id, "run"), "front_at", -1_500_000)
    assert paged.advance_due(run_id).ready.has_more
