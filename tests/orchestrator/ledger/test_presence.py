"""Who is there: by signs of life that count for a while."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from orchestrator.errors import OlderVersionThere
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.presence import (
    COUNTS_FOR_S,
    SIGN_OF_LIFE_S,
    CoordinatorCard,
    WorkerCard,
    announce_coordinator,
    announce_worker,
    present_coordinators,
    present_workers,
    refuse_older,
    withdraw_coordinator,
    withdraw_worker,
)

CARD = WorkerCard("cpu-2@host", ("cpu", "io"), 4, "prefork", "host", 4711, "beef")


def test_a_worker_is_there_from_its_first_sign_until_it_leaves(ledger: Ledger) -> None:
    place = ledger.client, ledger.prefix
    other = replace(CARD, worker="cpu-1@host")
    announce_worker(*place, CARD)
    announce_worker(*place, other)
    announce_worker(*place, CARD)

    assert present_workers(*place) == [other, CARD]
    withdraw_worker(*place, CARD.worker)
    assert present_workers(*place) == [other]


def test_a_worker_that_gives_no_more_signs_is_gone(ledger: Ledger) -> None:
    announce_worker(ledger.client, ledger.prefix, CARD)
    until = ledger.client.zscore(f"{ledger.prefix}:workers", CARD.worker)
    assert 0 < ledger.client.pttl(f"{ledger.prefix}:worker:{CARD.worker}") <= COUNTS_FOR_S * 1000

    ledger.client.zadd(f"{ledger.prefix}:workers", {CARD.worker: until - COUNTS_FOR_S})

    assert present_workers(ledger.client, ledger.prefix) == []
    assert not ledger.client.exists(f"{ledger.prefix}:workers")
    assert COUNTS_FOR_S >= 3 * SIGN_OF_LIFE_S, "two signs may be lost"


def test_a_worker_whose_card_is_gone_is_not_there(ledger: Ledger) -> None:
    announce_worker(ledger.client, ledger.prefix, CARD)
    ledger.client.delete(f"{ledger.prefix}:worker:{CARD.worker}")

    assert present_workers(ledger.client, ledger.prefix) == []


def test_coordinators_come_and_go_alike(ledger: Ledger) -> None:
    place = ledger.client, ledger.prefix
    one, two = (CoordinatorCard(name, "host", 1, "3.11") for name in ("one", "two"))
    announce_coordinator(*place, one)
    announce_coordinator(*place, two)
    ledger.client.zadd(f"{ledger.prefix}:coordinators", {"dead": 1.0})

    assert present_coordinators(*place) == ["one", "two"]
    withdraw_coordinator(*place, one)
    assert present_coordinators(*place) == ["two"]


def test_parts_of_a_version_that_names_no_format_are_refused_in_one_sentence(
    ledger: Ledger,
) -> None:
    place = ledger.client, ledger.prefix
    announce_worker(*place, CARD)
    announce_coordinator(*place, CoordinatorCard("new", "host", 1, "3.11"))
    refuse_older(*place)

    for key in (f"{ledger.prefix}:worker:{CARD.worker}", f"{ledger.prefix}:coordinator:new"):
        card = json.loads(ledger.client.get(key))
        del card["format"]
        ledger.client.set(key, json.dumps(card))

    told = f"^worker {CARD.worker}, coordinator new of version 0.1 are still there"
    with pytest.raises(OlderVersionThere, match=told):
        refuse_older(*place)
