"""The client outlives connections, also those that die in silence."""

from __future__ import annotations

import socket
import threading

import pytest
from redis.exceptions import TimeoutError

from orchestrator.ledger import connection
from orchestrator.ledger.connection import connect


def test_a_call_does_not_wait_for_ever_at_a_server_that_takes_it_and_says_nothing(monkeypatch):
    monkeypatch.setattr(connection, "ANSWER_LIMIT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        ended = threading.Event()

        def call():
            url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
            with connect(url, retries=1) as client, pytest.raises(TimeoutError):
                client.ping()
            ended.set()

        threading.Thread(target=call, daemon=True).start()

        assert ended.wait(10)


def test_what_is_no_text_is_read_and_harms_no_later_call(shared_redis_url, ledger):
    key, raw = ledger.key("garbled", "x"), b"a\xff\xfez"

    with connect(shared_redis_url) as client:
        client.hset(key, mapping={raw: raw, "after": "é"})
        read = (
            client.pipeline(transaction=False)
            .hgetall(key)
            .get("nothing")
            .hget(key, "after")
            .execute()
        )

    assert read == [{"a\\xff\\xfez": "a\\xff\\xfez", "after": "é"}, None, "é"]
