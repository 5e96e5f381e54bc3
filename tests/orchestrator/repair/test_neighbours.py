"""Another application that reads a queue of ours is named: once, by whatever gives it away."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from celery import Celery

from orchestrator.alerts.message import Message
from orchestrator.cli.health.neighbours import check_shared_queues
from orchestrator.installation import Installation
from orchestrator.ledger.connection import connect
from orchestrator.ledger.events import Event
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.presence import WorkerCard, announce_worker
from orchestrator.redis_url import celery_broker_url
from orchestrator.repair.neighbours import Neighbours, other_reader
from orchestrator.runs.submission import submit
from orchestrator.runs.visiting import Visitor
from orchestrator.settings.model import Settings
from tests.support.runs import graph

SHOP = """
from celery import Celery

app = Celery("shop", broker={url!r})
"""


@pytest.fixture
def quick(chosen: Settings, ledger: Ledger) -> Settings:
    return chosen.model_copy(update={"message_lost_after_s": 0.5, "key_prefix": ledger.prefix})


@pytest.fixture
def shop_worker(tmp_path: Path, shared_redis_url: str, quick: Settings) -> Iterator[str]:
    """A worker of another application, which reads our queue. Its name."""
    (tmp_path / "shop.py").write_text(SHOP.format(url=celery_broker_url(shared_redis_url)))
    command = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "shop",
        "worker",
        "--pool",
        "solo",
        "-Q",
        quick.queue_of(),
    ]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "-n", f"shop-{quick.key_prefix}"],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    yield f"shop-{quick.key_prefix}"
    process.kill()
    process.wait()


def shared_events(ledger: Ledger, run_id: str) -> list[Event]:
    return [event for event in ledger.events(run_id) if event.kind == "queue.shared"]


def test_a_worker_that_swallows_our_messages_is_named_once(
    ledger: Ledger, app: Celery, quick: Settings, shop_worker: str, wait_until: Callable[..., None]
) -> None:
    run_ids = [submit(graph({"a": "", "b": ""}).plan(), ledger, app, quick) for _ in range(2)]
    visitor = Visitor(ledger, app, quick)

    def events() -> list[Event]:
        for run_id in run_ids:
            visitor.visit(run_id)
        return [event for run_id in run_ids for event in shared_events(ledger, run_id)]

    def losses() -> int:
        return sum(
            event.kind == "message.lost" for run_id in run_ids for event in ledger.events(run_id)
        )

    wait_until(events)
    seen = losses()
    wait_until(lambda: events() and losses() >= seen + 4)  # it goes on

    (event,) = events()
    assert event.fields["queue"] == quick.queue_of()
    assert shop_worker in event.fields["reader"]
    (finding,) = check_shared_queues(
        Installation(quick, "redis://nowhere", ledger, is_embedded=False)
    )
    assert (finding.level, finding.what) == ("warning", f"queue {quick.queue_of()}")
    assert shop_worker in finding.found


def test_people_are_told_once_whoever_finds_it_and_not_after_one_loss(
    ledger: Ledger, app: Celery, quick: Settings, wait_until: Callable[..., None]
) -> None:
    run_id = submit(graph({"a": ""}).plan(), ledger, app, quick)
    queue = quick.queue_of()
    binding = f"_kombu.binding.shop-{ledger.prefix}"
    ledger.client.sadd(binding, f"cpu\x06\x16\x06\x16{queue}")
    told: list[Message] = []
    first, second = (Neighbours(ledger, app, quick, told.append) for _ in range(2))

    assert first.note_loss(run_id, queue) is None
    assert first.note_loss(run_id, "another queue") is None
    found = first.note_loss(run_id, queue)
    assert found is not None
    found.join()
    assert first.note_loss(run_id, queue) is None
    second.note_loss(run_id, queue)
    looked = second.note_loss(run_id, queue)
    assert looked is not None
    looked.join()

    (message,) = told
    assert queue in message.title
    assert f"shop-{ledger.prefix}" in message.body
    (event,) = shared_events(ledger, run_id)
    assert f"shop-{ledger.prefix}" in event.fields["reader"]
    ledger.client.delete(binding)


def test_a_server_that_is_away_is_one_line_and_the_next_loss_looks_again(
    ledger: Ledger, app: Celery, quick: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    with connect("redis://127.0.0.1:1", retries=0) as nobody:
        neighbours = Neighbours(Ledger(nobody, ledger.prefix), app, quick, lambda message: None)
        neighbours.note_loss("run", "queue")
        for _ in range(2):
            looked = neighbours.note_loss("run", "queue")
            assert looked is not None
            looked.join()

    assert [(record.levelname, record.exc_info) for record in caplog.records] == [
        ("WARNING", None)
    ] * 2
    assert "who else reads queue queue could not be found out: Error" in caplog.text


def test_nobody_is_named_where_nobody_else_reads(
    ledger: Ledger, app: Celery, quick: Settings
) -> None:
    queue = quick.queue_of()
    ours = f"_kombu.binding.{queue}"
    ledger.client.sadd(ours, f"{queue}\x06\x16\x06\x16{queue}")
    ledger.client.sadd(
        f"_kombu.binding.celery-{ledger.prefix}", f"mail\x06\x16\x06\x16mail-{ledger.prefix}"
    )
    announce_worker(ledger.client, ledger.prefix, WorkerCard("w", (queue,), 1, "prefork", "h", 1))
    try:
        assert other_reader(app, ledger, quick, queue) == ""
    finally:
        ledger.client.delete(ours, f"_kombu.binding.celery-{ledger.prefix}")
