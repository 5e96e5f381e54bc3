"""What workers set aside: whole and in order where it is somebody else's, bounded where it is
garbage."""

from __future__ import annotations

import pytest

from orchestrator.ledger import set_aside
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.set_aside import (
    SetAside,
    clear_the_way,
    dead_key,
    foreign_key,
    keep_foreign,
    put_aside,
    set_aside_in,
)


@pytest.fixture
def queue(ledger: Ledger) -> str:
    return f"{ledger.prefix}.cpu"


def test_a_message_of_others_goes_back_to_the_end_of_its_list_once_and_is_kept_then(
    ledger: Ledger, queue: str
) -> None:
    client, key = ledger.client, f"{queue}\x06\x163"
    client.lpush(key, "waits already")

    assert keep_foreign(client, ledger.prefix, queue, key, b"theirs")
    assert client.lrange(key, 0, -1) == ["theirs", "waits already"]

    assert not keep_foreign(client, ledger.prefix, queue, key, b"theirs")
    # whoever called has taken it from there
    assert client.lrange(key, 0, -1) == [
        "theirs",
        "waits already",
    ]
    assert client.lrange(foreign_key(ledger.prefix, queue), 0, -1) == ["theirs"]

    # Given back by hand, it goes round once more.
    assert keep_foreign(client, ledger.prefix, queue, key, b"theirs")


def test_none_of_the_others_is_ever_dropped(
    ledger: Ledger, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(set_aside, "DEAD_KEPT", 3)
    for _ in range(2):
        for number in range(20):
            keep_foreign(ledger.client, ledger.prefix, queue, queue, b"%d" % number)

    kept = ledger.client.lrange(foreign_key(ledger.prefix, queue), 0, -1)
    assert sorted(kept) == sorted(str(number) for number in range(20))


def test_the_dead_are_bounded_in_number_and_size_and_counted_all(
    ledger: Ledger, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(set_aside, "DEAD_KEPT", 3)
    monkeypatch.setattr(set_aside, "DEAD_BYTES", 2)
    for number in range(5):
        put_aside(ledger.client, ledger.prefix, queue, b"%dxyz" % number, f"reason {number}", 1.0)

    assert ledger.client.lrange(dead_key(ledger.prefix, queue), 0, -1) == ["4x", "3x", "2x"]
    assert set_aside_in(ledger.client, ledger.prefix, []) == [SetAside(queue, 0, 5, "reason 4")]


def test_queues_of_which_nothing_was_set_aside_are_left_out(ledger: Ledger, queue: str) -> None:
    assert set_aside_in(ledger.client, ledger.prefix, [queue]) == []


def test_a_key_that_is_no_list_gets_another_name_whole(ledger: Ledger, queue: str) -> None:
    client = ledger.client
    client.hset(queue, "a", "b")

    kept = clear_the_way(client, ledger.prefix, queue, queue, 1.0)

    assert client.hgetall(kept) == {"a": "b"}
    assert client.type(queue) == "none"
    client.lpush(queue, "message")
    assert clear_the_way(client, ledger.prefix, queue, queue, 1.0) == ""
    assert client.lrange(queue, 0, -1) == ["message"]
    (found,) = set_aside_in(client, ledger.prefix, [])
    assert kept in found.last_reason
