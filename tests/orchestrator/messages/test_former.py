"""An upgrade from a version in which a pool's name was its queue's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from celery import Celery

from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.values import Chain, Link
from orchestrator.messages.app import create_app
from orchestrator.messages.former import take_over_former_queues
from orchestrator.messages.queues import queue_keys
from orchestrator.repair.repair import Repair
from orchestrator.runs.submission import submit
from orchestrator.runs.visiting import Visitor
from orchestrator.settings.model import Settings
from orchestrator.settings.pools import PoolSettings
from tests.support.runs import graph, states_of
from tests.support.sending import send_chains

THEIRS = '{"headers": {"task": "shop.price"}, "body": "W10=", "properties": {}}'


@pytest.fixture(params=["", "team."])
def today(request: pytest.FixtureRequest, ledger: Ledger) -> Settings:
    """Settings of today for a pool that nobody else has on this server."""
    pool = f"{ledger.prefix}cpu{len(request.param)}"
    return Settings(
        pools={pool: PoolSettings()}, default_pool=pool, key_prefix=ledger.prefix,
        broker_key_prefix=request.param,
        message_lost_after_s=0.5,
    )  # fmt: skip


@pytest.fixture
def before(today: Settings) -> Settings:
    """Settings as they were: the pool's name was its queue's."""
    pool = today.default_pool
    return today.model_copy(
        update={"pools": {pool: PoolSettings(queue=pool)}, "broker_key_prefix": ""}
    )


@pytest.fixture
def app_of(shared_redis_url: str) -> Iterator[Callable[[Settings], Celery]]:
    made: list[Celery] = []

    def make(settings: Settings) -> Celery:
        made.append(create_app(settings, shared_redis_url))
        return made[-1]

    yield make
    for app in made:
        app.close()


def keys_of(queue: str) -> list[str]:
    return queue_keys(queue)


def lying(client: redis.Redis, base: str) -> list[Any]:
    return [message for key in queue_keys(base) for message in reversed(client.lrange(key, 0, -1))]


def test_our_messages_move_in_their_order_and_those_of_others_stay(
    ledger: Ledger, today: Settings, before: Settings, app_of: Callable[[Settings], Celery]
) -> None:
    old_app = app_of(before)
    run_id = submit(graph({f"s{i}": "" for i in range(600)}).plan(), ledger, old_app, before)
    pool, client = before.default_pool, ledger.client
    alone = [Chain("p", (Link("a", 1, pool, 5, 0),))]
    send_chains(old_app, "of-another-installation", alone)
    (other, *_), ours = lying(client, pool)[-1:], lying(client, pool)[:-1]
    for key in keys_of(pool):
        client.lpush(key, THEIRS, "garbage")
        client.rpush(key, b"\xff\xfe")

    assert take_over_former_queues(ledger, today) == 600

    assert lying(client, today.list_of(today.queue_of())) == ours
    for key in keys_of(pool):
        client.ltrim(key, 0, -2)
    assert sorted(lying(client, pool)) == sorted([other, *[THEIRS, "garbage"] * 4])
    assert take_over_former_queues(ledger, today) == 0
    assert states_of(ledger, run_id)["s0"] == "queued"


def test_a_run_from_before_goes_on_in_the_queues_of_today(
    ledger: Ledger,
    today: Settings,
    before: Settings,
    app_of: Callable[[Settings], Celery],
    wait_until,
) -> None:
    """What becomes ready, what is found lost and the links that lie in old messages all go to the
    new queue."""
    run_id = submit(graph({"a": "", "b": "a", "c": ""}).plan(), ledger, app_of(before), before)
    client, pool = ledger.client, before.default_pool
    client.delete(*keys_of(pool))  # lost in the middle of the upgrade
    visitor = Visitor(ledger, app_of(today), today)

    def round_trip() -> bool:
        visitor.visit(run_id)
        return len(lying(client, today.list_of(today.queue_of()))) >= 2

    wait_until(round_trip)

    assert lying(client, pool) == []
    lost = [
        event.fields["found"] for event in ledger.events(run_id) if event.kind == "message.lost"
    ]
    assert len(lost) == 2


def test_a_link_that_names_the_former_queue_is_sent_to_that_of_today(
    ledger: Ledger, today: Settings, before: Settings, app_of: Callable[[Settings], Celery]
) -> None:
    send_chains(app_of(today), "run", [Chain("p", (Link("a", 1, before.queue_of(), 5, 0),))])

    assert len(lying(ledger.client, today.list_of(today.queue_of()))) == 1
    assert lying(ledger.client, before.queue_of()) == []


def test_a_message_that_waits_in_the_queue_of_today_is_not_taken_for_lost(
    ledger: Ledger,
    today: Settings,
    before: Settings,
    app_of: Callable[[Settings], Celery],
    monkeypatch,
) -> None:
    run_id = submit(graph({"a": ""}).plan(), ledger, app_of(before), before)
    take_over_former_queues(ledger, today)
    repair = Repair(ledger, today)

    for _ in range(3):
        assert repair.act_on(run_id, repair.inspect(run_id)) == ()


@pytest.mark.parametrize(
    ("pools", "former"),
    [
        ({"cpu": PoolSettings()}, {"cpu": "orc.cpu"}),
        ({"cpu": PoolSettings(queue="cpu")}, {}),
        ({"cpu": PoolSettings(queue="mine")}, {}),
        ({"cpu": PoolSettings(), "gpu": PoolSettings(queue="cpu")}, {}),
        ({"cpu": PoolSettings(), "gpu": PoolSettings(queue="cuda")}, {"cpu": "orc.cpu"}),
    ],
)
def test_only_names_that_no_pool_pins_are_former_ones(
    pools: dict[str, PoolSettings], former: dict[str, str]
) -> None:
    chosen = Settings(pools=pools)

    assert chosen.former_queues() == former
    assert {name: chosen.queue_today(name) for name in former} == former
    assert [chosen.queue_today(chosen.queue_of(name)) for name in pools] == [
        chosen.queue_of(name) for name in pools
    ]


def test_a_queue_that_is_named_is_kept_as_given() -> None:
    chosen = Settings(
        pools={"cpu": PoolSettings(queue="mine")}, key_prefix="x", broker_key_prefix="team:"
    )

    assert chosen.queue_of() == "mine"
    assert chosen.list_of("mine") == "team:mine"
