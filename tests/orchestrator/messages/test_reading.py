"""What an entry of a queue is taken for. Whatever somebody pushes there, reading it never
raises."""

from __future__ import annotations

import base64
import copy
import json
import pickle
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery
from hypothesis import given, settings
from hypothesis import strategies as st
from kombu import Connection

from orchestrator.ledger.values import Chain, Link
from orchestrator.messages.app import create_app
from orchestrator.messages.reading import BrokenMessage, ForeignMessage, OwnMessage, read_message
from orchestrator.messages.signatures import chain_signature, publish
from orchestrator.settings.model import Settings
from orchestrator.settings.pools import PoolSettings


def sent(app: Celery, *steps: str, timeout_s: float = 0) -> dict[str, Any]:
    """Return a message as kombu writes it."""
    with Connection("memory://") as connection:
        channel = connection.channel()
        channel.queue_declare("pinned")
        channel._purge("pinned")
        links = tuple(Link(step, 1, "pinned", 5, timeout_s) for step in steps)
        publish(
            chain_signature(app, "20261123-175235-0123456789", Chain("p", links)),
            connection.Producer(channel),
        )
        message: dict[str, Any] = channel._get("pinned")
        return message


APP = create_app(Settings(pools={"cpu": PoolSettings(queue="pinned")}), "redis://localhost:1/0")
OURS = sent(APP, "a", "b[0.5]", "c", timeout_s=1.5)
PRICE = {
    **OURS,
    "headers": {**OURS["headers"], "task": "shop.price", "origin": "gen1@shop"},
}


def encoded(body: Any) -> str:
    return base64.b64encode(json.dumps(body).encode()).decode()


def body_of(message: dict[str, Any]) -> Any:
    return json.loads(base64.b64decode(message["body"]))


@pytest.mark.parametrize(
    "message", [sent(APP, "a"), sent(APP, *"abcdef"), sent(APP, "a", timeout_s=2592000.0), OURS]
)
def test_what_we_send_is_ours_and_its_body_is_decoded(message: dict[str, Any]) -> None:
    found = read_message(json.dumps(message).encode())

    assert found == OwnMessage(message, body_of(message))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.binary(max_size=300) | st.text(max_size=300) | JSON.map(json.dumps))
@settings(max_examples=400)
def test_what_is_no_message_is_broken_and_never_raises(entry: bytes | str) -> None:
    assert isinstance(read_message(entry), BrokenMessage | ForeignMessage)


@pytest.mark.parametrize(
    "entry",
    ["42", "null", '"x"', "[]", "{}", "", b"\xff\xfe", b"\x80\x04K*.", "[" * 100_000,
     '{"a":' * 100_000, "1" * 10_000,
     "NaN", '"\\ud800"', '{"body": 1, "headers": 2, "properties": 3}', "x" * 5_000_000],
)  # fmt: skip
def test_no_message_at_all(entry: bytes | str) -> None:
    found = read_message(entry)

    assert isinstance(found, BrokenMessage)
    assert len(found.reason) < 200


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Return the path of every value inside a JSON value, and of every place where one could be
    added."""
    yield path
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from places(inner, (*path, name))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from places(inner, (*path, number))


def changed(value: Any, path: tuple[Any, ...], change: Callable[[Any, Any], None]) -> Any:
    new = copy.deepcopy(value)
    holder = new
    for step in path[:-1]:
        holder = holder[step]
    change(holder, path[-1])
    return new


REMOVED = object()
OTHERS: list[Any] = [
    REMOVED, None, 42, -1, 1e400, True, "x", "", "\ud800", "x" * 10_000, [], [None], {}, {"a": 1},
    [[]] * 3, [1, 2],
]  # fmt: skip


def put(other: Any) -> Callable[[Any, Any], None]:
    def change(holder: Any, key: Any) -> None:
        if other is REMOVED:
            del holder[key]
        else:
            holder[key] = other

    return change


def mutations() -> Iterator[dict[str, Any]]:
    for other in OTHERS:
        for path in places(OURS):
            if path:
                yield changed(OURS, path, put(other))
        body = body_of(OURS)
        for path in places(body):
            new = changed(body, path, put(other)) if path else other
            if new is not REMOVED:
                yield {**OURS, "body": encoded(new)}


def test_every_change_of_one_of_our_messages_is_read_without_raising_and_only_sound_ones_are_ours() -> (
    None
):
    """Each value, of the envelope and of the body, is left out or replaced by one of many kinds."""
    kinds = set()
    for message in mutations():
        found = read_message(json.dumps(message))
        kinds.add(type(found))
        if isinstance(found, OwnMessage):
            args, kwargs, embedded = found.body
            links = [kwargs, *(link["kwargs"] for link in (embedded.get("chain") or [])[-1:])]
            assert args == []
            for link in links:
                assert link.keys() == {"run_id", "step", "attempt"}
                assert (type(link["run_id"]), type(link["step"]), type(link["attempt"])) == (
                    str,
                    str,
                    int,
                )
            json.dumps(found.envelope).encode("utf-8")
            assert found.envelope["headers"]["task"] == "pipeline.step"
            assert (
                found.envelope["headers"].get("eta")
                is found.envelope["headers"].get("expires")
                is None
            )
    assert kinds == {OwnMessage, BrokenMessage, ForeignMessage}


@pytest.mark.parametrize(
    "kwargs",
    [{}, {"run_id": "r", "step": "a"}, {"run_id": "r", "step": "a", "attempt": 1, "more": 1},
     {"run_id": "r"}, [],
     {"run_id": 1, "step": "a", "attempt": 1}, {"run_id": "r", "step": "no such name!",
      "attempt": 1},
     {"run_id": "r", "step": "a", "attempt": "1"}, {"run_id": "r", "step": "a", "attempt": 0},
     {"run_id": "r", "step": "a", "attempt": True}, {"run_id": "r\n", "step": "a", "attempt": 1}],
)  # fmt: skip
def test_our_task_with_wrong_arguments_is_broken_and_says_why(kwargs: Any) -> None:
    found = read_message(json.dumps({**OURS, "body": encoded([[], kwargs, body_of(OURS)[2]])}))

    assert isinstance(found, BrokenMessage)
    assert "pipeline.step: its " in found.reason


@pytest.mark.parametrize(
    ("name", "value"),
    [("eta", "2026-01-01T00:00:00"), ("eta", "garbage"), ("expires", 1e300), ("timelimit", "soon"),
     ("timelimit", [1]),
     ("timelimit", [None, -1]), ("timelimit", [3, 4]), ("retries", "x"), ("stamps", {"a": 1}),
     ("compression", "gzip"),
     ("id", None), ("stamped_headers", ["a"])],
)  # fmt: skip
def test_our_task_with_headers_that_we_never_send_is_broken(name: str, value: Any) -> None:
    found = read_message(json.dumps({**OURS, "headers": {**OURS["headers"], name: value}}))

    assert isinstance(found, BrokenMessage)


@pytest.mark.parametrize(
    "message",
    [
        PRICE,
        {**PRICE, "body": base64.b64encode(zlib.compress(b"[[], {}, {}]")).decode()},
        {**PRICE, "body": base64.b64encode(pickle.dumps([1])).decode(),
         "content-type": "application/x-python"},
        {**PRICE, "body": "no base64!"},
        {**PRICE, "properties": {}},
        {**PRICE, "properties": None},
        {"headers": {"task": "shop.price", "origin": "gen1@shop"}},
    ],
)  # fmt: skip
def test_a_task_of_somebody_else_is_foreign_whatever_its_body(message: dict[str, Any]) -> None:
    assert read_message(json.dumps(message)) == ForeignMessage("shop.price", "gen1@shop")


def test_a_task_of_protocol_1_is_known_by_its_body() -> None:
    old = {
        **OURS,
        "headers": {},
        "body": encoded({"task": "shop.price", "id": "1", "args": [], "kwargs": {}}),
    }
    ours = {
        **OURS,
        "headers": {},
        "body": encoded({"task": "pipeline.step", "id": "1", "args": [], "kwargs": {}}),
    }
    unreadable = {
        **OURS,
        "headers": {},
        "body": base64.b64encode(pickle.dumps({"task": "shop.price"})).decode(),
    }

    assert read_message(json.dumps(old)) == ForeignMessage("shop.price", "")
    assert isinstance(read_message(json.dumps(ours)), BrokenMessage)
    assert read_message(json.dumps(unreadable)) == ForeignMessage("", "")


def test_names_of_others_are_shown_in_one_line() -> None:
    message = {**PRICE, "headers": {"task": "a\nb" + "c" * 500, "origin": ["x"]}}

    found = read_message(json.dumps(message))

    assert isinstance(found, ForeignMessage)
    assert found.task.startswith("a?bc")
    assert len(found.task) == 200
    assert found.origin == ""
