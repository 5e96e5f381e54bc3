"""A version that cannot work beside the one before says so, before it has done anything."""

from __future__ import annotations

import json

import pytest

from orchestrator.ledger.entries import FORMAT

OLD_WORKER = "cpu@old-host"
PIPELINE = "steps: {a: {run: 'true'}}\n"


@pytest.fixture(scope="module")
def upgraded(tmp_path_factory, place_in, shared_redis_url):
    """A place on a server at which nothing of this version has run yet."""
    variables = {"ORCHESTRATOR_REDIS_URL": shared_redis_url, "ORCHESTRATOR_KEY_PREFIX": "upgraded"}
    place = place_in(tmp_path_factory.mktemp("upgraded"), variables)
    place.write("p.yaml", PIPELINE)
    return place


@pytest.fixture
def old_worker(redis_client):
    """The sign of life of a worker of version 0.1, whose card names no format."""
    card = {
        "worker": OLD_WORKER,
        "queues": ["upgraded.cpu"],
        "slots": 1,
        "pool_type": "prefork",
        "host": "h",
        "pid": 1,
    }
    redis_client.set(f"upgraded:worker:{OLD_WORKER}", json.dumps(card))
    redis_client.zadd("upgraded:workers", {OLD_WORKER: redis_client.time()[0] + 8.0})
    yield
    redis_client.delete(f"upgraded:worker:{OLD_WORKER}", "upgraded:workers")


@pytest.mark.parametrize(
    "command", [["serve"], ["worker", "--pool", "cpu"], ["submit", "p.yaml"], ["run", "p.yaml"]]
)
def test_nothing_starts_beside_a_worker_of_version_0_1(
    upgraded, old_worker, redis_client, command
) -> None:
    done = upgraded.call(*command)

    assert done.code == 2
    assert f"OlderVersionThere: worker {OLD_WORKER} of version 0.1 is still there" in done.err
    assert "stop all workers and coordinators" in done.err
    assert "Traceback" not in done.err
    assert redis_client.zcard("upgraded:runs") == 0


def test_once_it_has_stopped_they_start(upgraded, redis_client) -> None:
    run_id = upgraded.call("submit", "p.yaml").out.strip()

    assert redis_client.hget(f"upgraded:{{{run_id}}}:run", "v") == str(FORMAT)
    assert upgraded.call("cancel", run_id).code == 0
