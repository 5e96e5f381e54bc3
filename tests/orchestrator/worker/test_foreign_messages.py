"""What anybody may push into what a worker reads: it lives on, keeps what is not its own, and says
so once."""

from __future__ import annotations

import base64
import gzip
import json
import pickle
import random
import socket
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import redis
from celery.app.amqp import AMQP
from celery.worker.consumer import Consumer
from kombu.connection import Connection, ConnectionPool
from kombu.transport import redis as kombu_redis

from orchestrator.ledger.entries import PRIORITY_LEVELS
from orchestrator.ledger.set_aside import (
    DEAD_BYTES,
    DEAD_KEPT,
    dead_key,
    foreign_key,
    returning_command,
    set_aside_in,
)
from orchestrator.ledger.values import Chain, Link, Ready
from orchestrator.local.worker import LocalWorker
from orchestrator.messages.dispatch import Dispatcher
from orchestrator.messages.queues import list_key, queue_length
from orchestrator.messages.transport import Channel
from tests.support.fixtures import PipelineFrom, WaitUntil
from tests.support.worker_runs import Runs

ONE_STEP = """
    @step
    def one():
        return 1

    @pipeline
    def p():
        one()
"""


class Site:
    """The shared worker and its queue, into which anything may be pushed."""

    def __init__(self, runs: Any, worker: LocalWorker, pipeline_from: Any, wait_until: Any) -> None:
        self.runs, self.worker, self._pipeline_from, self._wait_until = (
            runs,
            worker,
            pipeline_from,
            wait_until,
        )
        self.queue: str = runs.settings.queue_of()
        self.prefix: str = runs.settings.key_prefix
        self.client = runs.ledger.client
        self.raw = worker_client(runs)
        self._pid = worker.pid

    def push(self, *entries: bytes | str, level: int = 0) -> None:
        self.client.lpush(list_key(self.queue, level), *entries)
        self._wait_until(lambda: queue_length(self.client, self.queue) == 0)

    def still_works(self) -> bool:
        """Whether a run succeeds on the same process as before."""
        record = self.runs.run(self._pipeline_from(ONE_STEP))
        same = psutil.pid_exists(self._pid) and self.worker.pid == self._pid and self.worker.alive()
        return bool(record.state == "succeeded" and same)

    def dead(self) -> list[bytes]:
        return list(reversed(self.raw.lrange(dead_key(self.prefix, self.queue), 0, -1)))

    def foreign(self) -> list[bytes]:
        return list(reversed(self.raw.lrange(foreign_key(self.prefix, self.queue), 0, -1)))

    def counted(self) -> int:
        found = {it.queue: it for it in set_aside_in(self.client, self.prefix, [self.queue])}
        return found[self.queue].dead if self.queue in found else 0


def worker_client(runs: Any) -> Any:
    """Return a client that gives bytes as they are."""
    options = {**runs.ledger.client.connection_pool.connection_kwargs, "decode_responses": False}
    pool = redis.ConnectionPool(
        connection_class=runs.ledger.client.connection_pool.connection_class, **options
    )
    return redis.Redis(connection_pool=pool)


@pytest.fixture
def site(
    runs: Runs, worker: LocalWorker, pipeline_from: PipelineFrom, wait_until: WaitUntil
) -> Iterator[Site]:
    site = Site(runs, worker, pipeline_from, wait_until)
    site.client.delete(
        dead_key(site.prefix, site.queue),
        foreign_key(site.prefix, site.queue),
        f"{site.prefix}:dead",
    )
    yield site
    site.raw.close()


@pytest.fixture
def ours(site: Site, runs: Runs) -> dict[str, Any]:
    """A message of ours, as it lies in a queue that nobody reads."""
    unread = f"{site.queue}.unread"
    chain = Chain("p", tuple(Link(step, 1, unread, 0, 1.5) for step in "abc"))
    Dispatcher(runs.app, runs.ledger).send("no-such-run", Ready([chain]))
    (text,) = site.client.lrange(unread, 0, -1)
    site.client.delete(unread)
    return json.loads(text)


def foreign_message(task: str, **changes: Any) -> str:
    headers = {
        "lang": "py",
        "task": task,
        "id": task,
        "origin": "gen1@shop",
        "root_id": task,
        "parent_id": None,
    }
    body = base64.b64encode(b"[[1], {}, {}]").decode()
    properties = {
        "delivery_tag": task,
        "delivery_info": {"exchange": "", "routing_key": "cpu"},
        "body_encoding": "base64",
    }
    envelope = {"body": body, "content-encoding": "utf-8", "content-type": "application/json",
    "headers": headers,
                "properties": properties}  # fmt: skip
    # not as any library writes it
    return json.dumps({**envelope, **changes}, separators=(", ", " :"))


GARBAGE = [
    b"42", b"null", b"[]", b"{}", b'"x"', b"no JSON", b"\xff\xfe\x00", pickle.dumps({"task": "x"}),
    b"[" * 100_000,
    b'{"body": 5, "headers": [], "properties": 7}', b"x" * 3_000_000, b'{"properties": {}}',
]  # fmt: skip


def test_entries_that_are_no_messages_are_put_among_the_dead_and_the_worker_goes_on(
    site: Site,
) -> None:
    for level in PRIORITY_LEVELS:
        site.push(*GARBAGE, level=level)

    assert site.still_works()
    assert sorted(site.dead()) == sorted(entry[:DEAD_BYTES] for entry in GARBAGE * 4)
    assert site.counted() == 4 * len(GARBAGE)
    assert site.foreign() == []


def test_the_dead_are_counted_all_and_kept_in_part_and_logged_once(site: Site) -> None:
    before = site.worker.log_tail(10_000).count("is not JSON")
    site.push(*(f"garbage {number}" for number in range(DEAD_KEPT + 50)))

    assert site.still_works()
    assert site.counted() == DEAD_KEPT + 50
    assert site.dead() == [f"garbage {number}".encode() for number in range(50, DEAD_KEPT + 50)]
    # one for each kind of JSONDecodeError
    assert site.worker.log_tail(10_000).count("is not JSON") <= max(before, 2)


def test_no_change_of_one_of_our_messages_ends_the_worker(site: Site, ours: Any) -> None:
    """Each value of the envelope and of the body is replaced by something else; and bytes are
    changed at random."""
    number = random.Random(7)
    entries: list[bytes] = []
    for name, value in _values(ours):
        for other in (None, 42, "x", [], {}, [None], "\ud800", "x" * 5000):
            entries.append(json.dumps(_with(ours, name, other)).encode())
        del value
    body = json.loads(base64.b64decode(ours["body"]))
    for name, _ in _values(body):
        for other in (None, 42, "x", [], {}, True):
            changed = json.dumps(_with(body, name, other)).encode()
            entries.append(
                json.dumps({**ours, "body": base64.b64encode(changed).decode()}).encode()
            )
    text = json.dumps(ours).encode()
    for _ in range(500):
        mutated = bytearray(text)
        for _ in range(number.randint(1, 6)):
            mutated[number.randrange(len(mutated))] = number.randrange(256)
        entries.append(
            bytes(mutated[: number.choice([len(mutated), number.randrange(len(mutated))])])
        )
    entries += [number.randbytes(number.randint(0, 200)) for _ in range(200)]

    for start in range(0, len(entries), 500):
        site.push(*entries[start : start + 500], level=3)

    assert site.still_works()
    assert site.client.llen(foreign_key(site.prefix, site.queue)) < len(entries)


def _values(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, inner in items:
        yield (*path, key), inner
        yield from _values(inner, (*path, key))


def _with(value: Any, path: tuple[Any, ...], other: Any) -> Any:
    copy = json.loads(json.dumps(value))
    holder = copy
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = other
    return copy


def test_a_key_of_another_kind_in_the_place_of_a_queue_is_moved_and_kept(
    site: Site, wait_until: WaitUntil
) -> None:
    for level in (0, 3, 9):
        key = list_key(site.queue, level)
        if level == 0:
            site.client.set(key, "x")
        elif level == 3:
            site.client.hset(key, "a", "b")
        else:
            site.client.sadd(key, "x")
        wait_until(lambda key=key: site.client.type(key) == "none")

    assert site.still_works()
    kept = sorted(site.client.scan_iter(f"{dead_key(site.prefix, site.queue)}:*"))
    assert [site.client.type(key) for key in kept] == ["hash", "set", "string"]
    site.client.delete(*kept)


def test_our_own_task_with_wrong_arguments_does_not_come_back(site: Site, ours: Any) -> None:
    entries = []
    for kwargs in (
        {},
        {"run_id": "r"},
        {"run_id": "r", "step": "a", "attempt": 1, "more": 2},
        {"run_id": 1},
        [],
    ):
        body = base64.b64encode(json.dumps([[], kwargs, {}]).encode()).decode()
        entries.append(json.dumps({**ours, "body": body}).encode())

    site.push(*entries)

    assert site.still_works()
    assert site.dead() == entries
    assert queue_length(site.client, site.queue) == 0


FOREIGN = [
    foreign_message("shop.price").encode(),
    foreign_message(
        "shop.zipped", body=base64.b64encode(gzip.compress(b"[[], {}, {}]")).decode()
    ).encode(),
    foreign_message(
        "shop.pickled", body=base64.b64encode(pickle.dumps([[], {}, {}])).decode()
    ).encode(),
    foreign_message("shop.broken", body="§ no base64 §").encode(),
    foreign_message("shop.no_properties", properties=None).encode(),
    foreign_message("celery.chord_unlock").encode(),
    foreign_message(
        "shop.old", headers={}, body=base64.b64encode(b'{"task": "shop.old", "id": "1"}').decode()
    ).encode(),
]


def test_messages_of_others_are_kept_byte_for_byte_and_can_be_given_back(
    site: Site, wait_until: WaitUntil
) -> None:
    site.push(*FOREIGN, level=3)
    wait_until(lambda: len(site.foreign()) == len(FOREIGN))

    assert sorted(site.foreign()) == sorted(FOREIGN)
    assert site.dead() == []
    log = site.worker.log_tail(10_000)
    assert f"queue {site.queue} is read by this worker" in log
    assert "task shop.price from gen1@shop is not ours" in log
    assert site.still_works()

    theirs = f"{site.queue}.theirs"
    kept = site.foreign()
    words = returning_command(site.prefix, site.queue, theirs).split(" ", 1)[1]
    assert words.startswith('EVAL "')
    script, _, keys = words.removeprefix('EVAL "').partition('" 2 ')
    assert site.raw.eval(script, 2, *keys.split(" ")) == len(FOREIGN)
    assert list(reversed(site.raw.lrange(theirs, 0, -1))) == kept
    assert site.foreign() == []
    site.client.delete(theirs)


NONSENSE = [
    b"42", b"null", b"{}", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"body": 1, "properties": 2}',
    b'{"body": "eA==", "properties": {}}',
    b'{"body": "x", "headers": 4, "properties": {"delivery_tag": []}}',
]  # fmt: skip
COMMANDS: list[tuple[Any, Any]] = [
    ("rate_limit", {}), ("no_such", {}), ("pool_grow", {"n": "x"}), ("time_limit", {"a": 1}),
    ("autoscale", {"max": []}), ("revoke", {"task_id": {}}), ("cancel_consumer", {"queue": []}),
    (42, None),
]  # fmt: skip


def test_nonsense_on_the_control_and_event_channels_does_not_end_the_worker(
    site: Site, wait_until: WaitUntil
) -> None:
    channels = [channel.decode() for channel in site.raw.pubsub_channels("*")]
    control = site.runs.app.control
    for method, arguments in COMMANDS:
        control.broadcast(method, arguments=arguments, reply=False)
    for channel in ["/0.celery.pidbox", "/0.celeryev/worker.heartbeat", *channels]:
        for entry in NONSENSE:
            site.raw.publish(channel, entry)

    wait_until(
        lambda: control.ping(timeout=1, destination=[f"{site.worker.name}@{socket.gethostname()}"])
    )
    assert site.still_works()


def test_bindings_cards_and_nudges_that_make_no_sense_are_passed_over(
    site: Site, wait_until: WaitUntil
) -> None:
    name = f"{site.worker.name}@{socket.gethostname()}"
    site.client.sadd("_kombu.binding.reply.celery.pidbox", "nonsense", "", "a\x06\x16b")
    site.client.zadd(f"{site.prefix}:workers", {"ghost": 2**40, "other": 2**40})
    site.client.set(f"{site.prefix}:worker:ghost", "[" * 10_000)
    site.client.set(f"{site.prefix}:worker:other", '{"worker": "other"}')
    site.client.lpush(f"{site.prefix}:nudge:{name}", "nonsense", b"\xff\xfe", "")
    try:
        assert site.still_works()
        wait_until(lambda: site.runs.app.control.ping(timeout=1, destination=[name]))
    finally:
        site.client.srem("_kombu.binding.reply.celery.pidbox", "nonsense", "", "a\x06\x16b")
        site.client.zrem(f"{site.prefix}:workers", "ghost", "other")


@pytest.mark.parametrize(
    ("owner", "names"),
    [
        (kombu_redis.Channel, ["_brpop_read", "_brpop_start", "_receive_one", "_flush_brpop_reauth",
         "get_table",
                               "_in_poll", "sep", "_put", "conn_or_acquire",
                               "from_transport_options"]),
        (kombu_redis.Transport, ["_deliver", "Channel"]),
        (Connection, ["get_transport_cls", "Pool", "_info"]),
        (ConnectionPool, ["new"]),
        (AMQP, ["Connection", "BrokerConnection"]),
        (Consumer, ["call_soon", "cancel_task_queue"]),
    ],
)  # fmt: skip
def test_the_private_parts_of_kombu_that_the_transport_relies_on_are_there(
    owner: type, names: list[str]
) -> None:
    assert [name for name in names if not hasattr(owner, name)] == []


def test_all_connections_of_our_app_have_our_transport(runs: Runs) -> None:
    app = runs.app
    with (
        app.connection_for_read() as reading,
        reading.clone() as copy,
        app.connection_for_write() as writing,
    ):
        assert all(isinstance(it.default_channel, Channel) for it in (reading, copy, writing))
    with app.pool.acquire() as pooled, app.amqp.producer_pool.acquire() as producer:
        assert isinstance(pooled.default_channel, Channel)
        assert isinstance(producer.channel, Channel)


def test_kombu_calls_what_the_transport_replaces(runs: Runs) -> None:
    with runs.app.connection_for_read() as connection:
        channel = connection.default_channel
        assert channel.handlers["BRPOP"] == channel._brpop_read
        assert channel.handlers["LISTEN"] == channel._receive
        assert channel.Message.__name__ == "CheckedMessage"
        assert callable(channel._queue_cycle.rotate)
        assert callable(channel.client.parse_response)
