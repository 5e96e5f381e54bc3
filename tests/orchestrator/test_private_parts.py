"""What we rely on inside Celery, kombu and billiard, which they do not promise: one test for each
thing.

A version that lacks one fails here, by its name, before it fails somewhere else by a symptom.
"""

from __future__ import annotations

import inspect
import pydoc
from importlib.metadata import version

import pytest

VERSIONS = {"celery": "5.7", "kombu": "5.7", "billiard": "4."}

# Attributes and functions by their whole name, the parameters that we call or override them with,
# and who does it.
NAMED = [
    ("celery._state._tls", None, "worker/celery_inside/user_apps.py"),
    ("celery._state._task_stack", None, "worker/celery_inside/user_apps.py"),
    ("celery._state._get_active_apps", [], "worker/celery_inside/user_apps.py"),
    ("celery._state._set_task_join_will_block", ["blocks"], "worker/celery_inside/user_apps.py"),
    ("celery._state._on_app_finalizers", None, "worker/celery_inside/user_apps.py"),
    ("celery.concurrency.asynpool.WORKER_UP", None, "worker/celery_inside/pool.py"),
    ("celery.concurrency.asynpool.AsynPool._track_child_process", ["self", "proc", "hub"],
     "worker/celery_inside/pool.py"),
    ("celery.concurrency.asynpool.ResultHandler._flush_outqueue",
     ["self", "fd", "remove", "process_index", "on_state_change"], "worker/celery_inside/pool.py"),
    ("billiard.pool.Pool._join_exited_workers", ["self", "shutdown"], "worker/celery_inside/pool.py"),
    ("kombu.transport.redis.Channel._brpop_read", ["self", "options"], "messages/transport.py"),
    ("kombu.transport.redis.Channel._receive_one", ["self", "c"], "messages/transport.py"),
    ("kombu.transport.redis.Channel._q_for_pri", ["self", "queue", "pri"],
     "messages/transport.py, queues.py"),
    ("kombu.transport.redis.Channel._put", ["self", "queue", "message", "kwargs"],
     "worker/celery_inside/requests.py"),
    ("kombu.transport.redis.Channel._flush_brpop_reauth", ["self"], "messages/transport.py"),
    ("kombu.transport.virtual.base.Transport._deliver", ["self", "message", "queue"],
     "messages/transport.py"),
    ("kombu.connection.Connection._info", ["self", "resolve"], "messages/transport.py"),
    ("kombu.connection.Connection.get_transport_cls", ["self"], "messages/transport.py"),
]  # fmt: skip

# Attributes that objects get when they are made: who makes them, and a piece of its source.
MADE = [
    ("kombu.transport.redis.Channel", "self._in_poll", "worker/celery_inside/requests.py"),
    ("kombu.transport.redis.Channel", "_queue_cycle", "messages/transport.py"),
    ("billiard.pool.ApplyResult", "self._accepted", "worker/celery_inside/consumer.py"),
    ("billiard.pool.ApplyResult", "_write_to", "worker/celery_inside/consumer.py"),
    ("billiard.pool.Pool", "self._cache", "worker/celery_inside/consumer.py"),
    ("billiard.pool.Pool", "self._result_handler", "worker/celery_inside/pool.py"),
    ("billiard.pool.Pool", "self._pool", "worker/celery_inside/pool.py"),
    ("celery.concurrency.prefork.TaskPool", "self._pool", "worker/celery_inside/pool.py"),
    ("celery.concurrency.asynpool.AsynPool", "_sentinel_poll", "worker/celery_inside/pool.py"),
    ("billiard.queues._SimpleQueue", "self._reader", "worker/celery_inside/pool.py"),
]


@pytest.mark.parametrize(("package", "known"), VERSIONS.items())
def test_the_versions_are_those_that_were_read(package: str, known: str) -> None:
    found = version(package)
    assert found.startswith(known), (
        f"read what is named here in {package} {found}, then write that version here"
    )


@pytest.mark.parametrize(("name", "parameters", "user"), NAMED, ids=[name for name, *_ in NAMED])
def test_it_is_there_and_takes_what_we_give(
    name: str, parameters: list[str] | None, user: str
) -> None:
    found = pydoc.locate(name)
    assert found is not None or name.endswith("_tls"), f"{user} needs {name}"
    if parameters is not None:
        assert list(inspect.signature(found).parameters) == parameters, f"{user} calls {name}"


@pytest.mark.parametrize(
    ("maker", "piece", "user"), MADE, ids=[f"{maker} {piece}" for maker, piece, _ in MADE]
)
def test_its_maker_still_makes_it(maker: str, piece: str, user: str) -> None:
    assert piece in inspect.getsource(pydoc.locate(maker)), f"{user} needs {piece} of {maker}"
