"""Workers and the names of queues: a prefix for the broker's keys, an upgrade, remote control."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from orchestrator.ledger.connection import connect
from orchestrator.ledger.events import EventKind
from orchestrator.ledger.presence import WorkerCard, present_workers
from orchestrator.ledger.set_aside import dead_key, foreign_key
from orchestrator.ledger.values import Link
from orchestrator.local.server import embedded_server
from orchestrator.local.worker import local_worker
from orchestrator.messages.queues import list_key, queue_keys, queue_length
from orchestrator.messages.sizes import ORIGIN_BYTES, message_bytes
from orchestrator.settings.model import Settings
from orchestrator.settings.pools import PoolSettings
from tests.support.fixtures import PipelineFrom, WaitUntil
from tests.support.worker_runs import OwnWorker, Runs

CHAIN = """
    @step
    def first():
        return 1

    @step
    def second(value):
        return value + 1

    @step{option}
    def third(value):
        return value + 1

    @pipeline(name="chained")
    def chained():
        third(second(first()))
"""
FOREIGN = (
    b'{"headers": {"task": "shop.price", "origin": "gen1@shop"}, "properties": {}, "body": "W10="}'
)


def events_of(runs: Runs, run_id: str) -> list[EventKind]:
    return [event.kind for event in runs.ledger.events(run_id)]


def test_a_user_who_may_use_keys_of_one_prefix_only_runs_everything(
    settings: Settings,
    runs_on: Callable[[Settings, str], Runs],
    pipeline_from: PipelineFrom,
    tmp_path: Path,
    wait_until: WaitUntil,
) -> None:
    """Ledger, queues, bindings, control and event channels: the server refuses what does not begin
    with the prefix."""
    with embedded_server(tmp_path / "server") as url, connect(url) as admin:
        admin.acl_setuser("team", enabled=True, passwords=["+secret"], commands=["+@all"],
        keys=["team.*"],
                          channels=["team.*", "team./0.celery.pidbox",
                          "team./0.celeryev/*"])  # fmt: skip
        chosen = settings.model_copy(
            update={"key_prefix": "team.orc", "broker_key_prefix": "team.",
            "pools": {"cpu": PoolSettings()},
                    "data_dir": tmp_path / "data"}
        )  # fmt: skip
        team_url = url.replace("unix://", "unix://team:secret@", 1)
        with local_worker(chosen, team_url, 1, ["cpu"], ready_within_s=60) as worker:
            runs = runs_on(worker.settings, team_url)
            record = runs.run(pipeline_from(CHAIN.format(option="")))

            assert record.state == "succeeded"
            queue = runs.settings.queue_of()
            admin.lpush(list_key(runs.settings.list_of(queue), 0), "garbage", FOREIGN)
            kept = foreign_key("team.orc", queue)
            wait_until(
                lambda: (admin.llen(kept), admin.llen(dead_key("team.orc", queue))) == (1, 1)
            )
            assert queue_length(admin, runs.settings.list_of(queue)) == 0
            assert runs.app.control.ping(timeout=5)
            assert [key for key in admin.scan_iter("*") if not key.startswith("team.")] == []
            worker.kill()


def test_an_upgrade_takes_over_what_lies_in_the_queues_of_before(
    settings: Settings,
    shared_redis_url: str,
    runs_on: Callable[[Settings, str], Runs],
    start_worker: Any,
    pipeline_from: PipelineFrom,
    tmp_path: Path,
) -> None:
    """The run, its messages and the command that starts the worker are those of before; nothing is
    lost."""
    pool, client = f"up-{tmp_path.name}", None
    today = settings.model_copy(
        update={"redis_url": shared_redis_url, "default_pool": pool,
                "pools": {pool: PoolSettings(queue=f"{settings.key_prefix}.{pool}")}}
    )  # fmt: skip
    before = today.model_copy(update={"pools": {pool: PoolSettings(queue=pool)}})
    old = runs_on(before, shared_redis_url)
    run_ids = [old.submit(pipeline_from(CHAIN.format(option=""))) for _ in range(3)]
    client = old.ledger.client
    client.lpush(pool, FOREIGN)
    assert queue_length(client, pool) == 4

    _, new = start_worker("upgraded", "-c", "2", of=today, queue=pool)
    new = runs_on(today, shared_redis_url)

    for run_id in run_ids:
        record = new.wait(run_id)
        assert record.state == "succeeded"
        assert "message.lost" not in events_of(new, run_id)
    assert client.lrange(pool, 0, -1) == [FOREIGN.decode()]
    client.delete(*queue_keys(pool))


@pytest.mark.parametrize("option", ["", "(timeout=2.5)"])
def test_a_message_that_a_worker_sends_is_no_larger_than_was_computed(
    runs: Runs, pipeline_from: PipelineFrom, wait_until: WaitUntil, option: str
) -> None:
    """The next link of a chain, whose queue nobody reads: with parent, root and the worker's own
    name."""
    source = CHAIN.format(option=option).replace(
        "@step\n    def second", '@step(pool="gpu")\n    def second'
    )
    run_id = runs.submit(pipeline_from(source))
    lists = runs.settings.list_of(runs.settings.queue_of("gpu"))
    raw = redis.Redis(connection_pool=runs.ledger.client.connection_pool)

    wait_until(
        lambda: any(run_id in text for key in queue_keys(lists) for text in raw.lrange(key, 0, -1))
    )

    (text,) = [
        text for key in queue_keys(lists) for text in raw.lrange(key, 0, -1) if run_id in text
    ]
    links = (Link("second", 1, runs.settings.queue_of("gpu"), 5, 0),
             Link("third", 1, runs.settings.queue_of(), 5, 2.5 if option else 0))  # fmt: skip
    assert len(text) <= message_bytes(run_id, "chained", links) < len(text) + ORIGIN_BYTES + 16
    runs.ledger.cancel(run_id, "measured")
    raw.delete(*queue_keys(lists))


def test_the_card_tells_which_queues_are_read_and_how_many_slots_there_are_now(
    own_worker: OwnWorker, wait_until: WaitUntil
) -> None:
    with own_worker() as runs:
        queue, client, prefix = (
            runs.settings.queue_of(),
            runs.ledger.client,
            runs.settings.key_prefix,
        )

        def card() -> WorkerCard:
            (found,) = [it for it in present_workers(client, prefix) if it.worker == name]
            return found

        name = next(it.worker for it in present_workers(client, prefix) if queue in it.queues)
        control = runs.app.control

        control.cancel_consumer(queue, destination=[name], reply=True)
        wait_until(lambda: card().queues == ())
        control.pool_grow(2, destination=[name], reply=True)
        wait_until(lambda: card().slots == 3)
        control.add_consumer(queue, destination=[name], reply=True)
        wait_until(lambda: card().queues == (queue,))
        control.pool_shrink(2, destination=[name], reply=True)
        wait_until(lambda: card().slots == 1)
