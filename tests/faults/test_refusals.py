"""A server that is alive and refuses: all wait for it, no finished work is thrown away, no worker
ends."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import redis

from orchestrator.attempt_id import AttemptId
from orchestrator.ledger.connection import connect
from orchestrator.refusals import REFUSALS, TOO_MANY_CLIENTS, ServerRefuses
from tests.support.fixtures import WaitUntil
from tests.support.site.server import Server
from tests.support.site.site import Site

WORKING = """
    @step
    def hold():
        note("began")
        print("before")
        wait_for("go")
        print("after")
        return 1

    @step(retries=1, retry_delay=1, retry_jitter=0)
    def again():
        if context.attempt == 1:
            raise ValueError("as planned")
        return context.attempt

    @step
    def below(value):
        return value

    @pipeline
    def working():
        below(hold())
        again()
"""


@contextmanager
def busy(server: Any, client: redis.Redis) -> Iterator[None]:
    client.config_set("lua-time-limit", 50)

    def keep_busy() -> None:
        with (
            redis.Redis.from_url(server.url, socket_timeout=None) as script,
            suppress(redis.RedisError),
        ):
            script.eval("while true do end", 0)

    thread = threading.Thread(target=keep_busy)
    thread.start()
    yield
    client.script_kill()
    thread.join(10)


@contextmanager
def loading(server: Any, client: redis.Redis) -> Iterator[None]:
    """Its data takes as long to load as the block lasts: each key of another database costs it some
    time."""
    with redis.Redis.from_url(server.url, db=1) as other, other.pipeline(transaction=False) as pipe:
        for number in range(4000):
            pipe.set(f"filler-{number}", "x" * 100)
        pipe.execute()
    server.kill()
    server.restart(
        "--key-load-delay",
        "5000",
        "--loading-process-events-interval-bytes",
        "1024",
        is_waited_for=False,
    )
    yield
    server.kill()
    server.restart()


@contextmanager
def configured(client: redis.Redis, *settings: tuple[str, object, object]) -> Iterator[None]:
    for name, harm, _ in settings:
        client.config_set(name, harm)
    yield
    for name, _, healed in reversed(settings):
        client.config_set(name, healed)


@contextmanager
def replica_of_nobody(client: redis.Redis, *, serves_stale_data: bool) -> Iterator[None]:
    with socket.socket() as nobody:  # bound, and it does not listen
        nobody.bind(("127.0.0.1", 0))
        with configured(
            client, ("replica-serve-stale-data", "yes" if serves_stale_data else "no", "yes")
        ):
            client.replicaof("127.0.0.1", nobody.getsockname()[1])
            yield
            client.replicaof("NO", "ONE")


@contextmanager
def unable_to_save(server: Any, client: redis.Redis) -> Iterator[None]:
    in_the_way = server.folder / "dump.rdb"
    in_the_way.mkdir()
    with configured(
        client, ("save", "3600 1000000", ""), ("stop-writes-on-bgsave-error", "yes", "no")
    ):
        client.bgsave()
        while client.info("persistence")["rdb_last_bgsave_status"] != "err":
            threading.Event().wait(0.01)
        yield
    in_the_way.rmdir()


@contextmanager
def full_of_clients(client: redis.Redis) -> Iterator[None]:
    with configured(client, ("maxclients", 1, 10_000)):
        for kind in ("normal", "pubsub"):
            client.execute_command("CLIENT", "KILL", "TYPE", kind)
        yield


HARMS: dict[str, Callable[[Any, redis.Redis], object]] = {
    "BUSY": busy,
    "LOADING": loading,
    "MASTERDOWN": lambda _, client: replica_of_nobody(client, serves_stale_data=False),
    "READONLY": lambda _, client: replica_of_nobody(client, serves_stale_data=True),
    "OOM": lambda _, client: configured(client, ("maxmemory", 1, 0)),
    "MISCONF": unable_to_save,
    "NOREPLICAS": lambda _, client: configured(client, ("min-replicas-to-write", 1, 0)),
    TOO_MANY_CLIENTS: lambda _, client: full_of_clients(client),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_server_that_refuses_for_longer_than_a_lease_costs_no_attempt(
    lasting_server_site: tuple[Server, Site], wait_until: WaitUntil, harm: Any
) -> None:
    server, site = lasting_server_site
    main_processes = [worker.process.pid for worker in site.workers]
    run = site.submit(WORKING)
    run.wait(
        lambda record: run.noted("began") is not None and record.steps["again"].state == "retrying"
    )

    # Made by redis-py alone: it must get through, and see what the server says.
    with redis.Redis.from_url(server.url, decode_responses=True) as operator:
        operator.ping()
        with HARMS[harm](server, operator):
            with connect(server.url, retries=0) as ours:
                refused = wait_for_refusal(ours, wait_until)
            assert str(refused).startswith(REFUSALS.get(harm, harm))
            run.note("go")  # so the attempt ends meanwhile
            threading.Event().wait(2 * site.settings.lease_s)

    record = run.ended(lambda repairs: all(repair.kind == "message.lost" for repair in repairs))
    assert record.state == "succeeded", run.story()
    assert {name: len(step.attempts) for name, step in record.steps.items()} == {
        "hold": 1,
        "again": 2,
        "below": 1,
    }
    assert not [event for event in run.events() if event.kind.endswith(".refused")]
    assert run.ledger.log_lines(AttemptId(run.run_id, "hold", 1)) == ["before", "after"]
    assert [worker.process.pid for worker in site.workers if worker.is_alive] == main_processes


def wait_for_refusal(client: redis.Redis, wait_until: Callable[..., None]) -> ServerRefuses:
    """Write until the server refuses that, and return the refusal."""
    found: list[ServerRefuses] = []

    def is_refused() -> bool:
        try:
            client.set("of-no-use", 1)
        except ServerRefuses as error:
            found.append(error)
        except redis.ConnectionError:
            pass
        return bool(found)

    wait_until(is_refused)
    return found[0]


def test_several_calls_in_one_round_trip_are_all_made_again(
    lasting_server_site: tuple[Server, Site],
) -> None:
    server, _ = lasting_server_site
    with connect(server.url, retries=20) as client, connect(server.url, retries=0) as operator:
        for transaction in (False, True):
            operator.config_set("maxmemory", 1)
            healed = threading.Timer(0.3, operator.config_set, ("maxmemory", 0))
            healed.start()
            with client.pipeline(transaction=transaction) as pipe:
                pipe.set("of-no-use", 1).get("of-no-use").delete("of-no-use")
                assert pipe.execute() == [True, "1", 1]
            healed.join()


IMPATIENT_APP = """
import orchestrator.worker.process

orchestrator.worker.process.RETRIES = 0
from orchestrator.worker.app import app
"""


def test_finished_work_is_recorded_however_long_that_takes(
    server_site: Site, wait_until: WaitUntil
) -> None:
    """A call of the ledger is given up after a while, and a commit is then begun anew."""
    site = server_site
    (site.folder / "impatient_app.py").write_text(IMPATIENT_APP)
    worker = site.at_work(app="impatient_app")
    run = site.submit(WORKING)
    run.wait_for_note("began")

    with configured(site.client, ("maxmemory", 1, 0)):
        run.note("go")
        wait_until(lambda: "cannot be recorded yet" in worker.log)
        threading.Event().wait(1)  # many tries

    record = run.ended(lambda repairs: all(repair.kind == "message.lost" for repair in repairs))
    assert record.state == "succeeded", run.story()
    assert len(record.steps["hold"].attempts) == 1
