"""Where a message lies in its queue."""

from __future__ import annotations

import base64
import json
import pickle

import pytest

from orchestrator.attempt_id import AttemptId
from orchestrator.ledger.values import Chain, Link
from orchestrator.messages import queues
from orchestrator.messages.queues import attempt_in, list_key, lying_in, messages_ahead, queue_keys
from tests.support.sending import send_chains


@pytest.fixture
def queue(chosen) -> str:
    return chosen.queue_of()


def send(app, queue: str, *steps: str, priority: int = 5) -> None:
    send_chains(app, "run", [Chain("p", (Link(step, 1, queue, priority, 0),)) for step in steps])


def test_messages_are_counted_from_the_one_that_is_taken_next(
    app, redis_client, queue, monkeypatch
) -> None:
    monkeypatch.setattr(queues, "_PAGE", 2)
    send(app, queue, "a", "b", "c", "d", "e")

    ahead = [messages_ahead(redis_client, queue, 3, AttemptId("run", step, 1)) for step in "abcde"]

    assert ahead == [0, 1, 2, 3, 4]
    redis_client.brpop([list_key(queue, 3)])
    assert messages_ahead(redis_client, queue, 3, AttemptId("run", "b", 1)) == 0
    for missing in (AttemptId("run", "a", 1), AttemptId("run", "b", 2), AttemptId("other", "b", 1)):
        assert messages_ahead(redis_client, queue, 3, missing) is None


ODD_NAMES = ["größe", "a'b", 'a"b', "x[1][{'k': 2}]", "工程", "a\\b c", "s" * 3000, "é[1]"]


def test_only_messages_that_name_the_step_are_parsed(app, redis_client, queue, monkeypatch) -> None:
    send(app, queue, *(f"s{number:03}" for number in range(100)), *ODD_NAMES)
    parsed = []
    monkeypatch.setattr(queues, "attempt_in", lambda text: parsed.append(0) or attempt_in(text))

    ahead = [messages_ahead(redis_client, queue, 3, AttemptId("run", "s099", 1))]
    assert len(parsed) == 1
    ahead += [messages_ahead(redis_client, queue, 3, AttemptId("run", it, 1)) for it in ODD_NAMES]

    assert ahead == list(range(99, 100 + len(ODD_NAMES)))


def test_messages_are_found_wherever_they_lie_in_their_list(
    app, redis_client, queue, monkeypatch
) -> None:
    monkeypatch.setattr(queues, "_PAGE", 2)
    send(app, queue, "a", "b", "c", "d", "e")
    send(app, queue, "f", priority=0)
    redis_client.lpush(list_key(queue, 3), "of somebody else, who names run")
    wanted = {AttemptId("run", step, attempt) for step in "aef" for attempt in (1, 2)}

    assert lying_in(redis_client, queue, 3, wanted) == {
        AttemptId("run", "a", 1),
        AttemptId("run", "e", 1),
    }
    assert lying_in(redis_client, queue, 9, wanted) == set()


def test_messages_of_a_stronger_priority_are_ahead_of_all_others(app, redis_client, queue) -> None:
    send(app, queue, "later", "last")
    send(app, queue, "first", priority=0)
    send(app, queue, "weak", priority=9)

    assert messages_ahead(redis_client, queue, 0, AttemptId("run", "first", 1)) == 0
    assert messages_ahead(redis_client, queue, 3, AttemptId("run", "last", 1)) == 2
    assert messages_ahead(redis_client, queue, 9, AttemptId("run", "weak", 1)) == 3


def test_a_chain_stands_for_its_first_link(app, redis_client, queue) -> None:
    send_chains(app, "run", [Chain("p", (Link("a", 2, queue, 5, 0), Link("b", 1, queue, 5, 0)))])

    (message,) = redis_client.lrange(list_key(queue, 3), 0, -1)
    assert attempt_in(message) == AttemptId("run", "a", 2)


def body(**named) -> str:
    return json.dumps({"body": base64.b64encode(json.dumps([[], named, {}]).encode()).decode()})


@pytest.mark.parametrize(
    "message",
    [
        body(run_id=[], step="a", attempt=1),
        body(run_id="r", step={}, attempt=1),
        body(run_id="r", step="a", attempt="1"),
        body(run_id="\ud800", step="a", attempt=1),
        "[" * 100_000,
    ],
)
def test_a_message_that_names_no_attempt_stands_for_nothing(message) -> None:
    assert attempt_in(message) is None


def test_entries_of_somebody_else_that_are_no_text_are_passed_over(
    app, redis_client, queue
) -> None:
    send(app, queue, "a", "b")
    for key in queue_keys(queue):
        redis_client.rpush(
            key,
            b"\xff\xfe",
            pickle.dumps({"run": "run"}),
            body(run_id=["run"], step="a", attempt=1),
        )

    assert messages_ahead(redis_client, queue, 3, AttemptId("run", "b", 1)) == 3 + 3 + 1
    assert lying_in(redis_client, queue, 3, {AttemptId("run", "a", 1)}) == {
        AttemptId("run", "a", 1)
    }


@pytest.mark.parametrize(
    "message", ["", "no JSON", "{}", '{"body": "W10="}', '{"body": "W1tdLCB7fSwge31d"}']
)
def test_a_message_of_somebody_else_stands_for_nothing(message) -> None:
    assert attempt_in(message) is None
