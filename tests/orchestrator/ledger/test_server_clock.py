"""Several who look at the server's clock agree on how it was put, whoever looks when."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.server_clock import ServerClock, clock_key, steps_in

HOUR_US = 3_600_000_000
Put = Callable[[int], None]


@pytest.fixture
def put(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Put:
    """Put the server's clock, as seen through the ledger's client."""
    ahead_us = [0]

    def time_of(answer: list[bytes]) -> tuple[int, int]:
        return divmod(int(answer[0]) * 1_000_000 + int(answer[1]) + ahead_us[0], 1_000_000)

    def put(by_us: int) -> None:
        ahead_us[0] += by_us

    monkeypatch.setitem(ledger.client.response_callbacks, "TIME", time_of)
    return put


def clocks(ledger: Ledger, count: int) -> list[ServerClock]:
    looking = [ServerClock(ledger.client, ledger.prefix) for _ in range(count)]
    for clock in looking:
        clock.look()
    return looking


def recorded(ledger: Ledger) -> list[int]:
    """Return by how many hours each recorded step has put the clock."""
    return [
        round(step.by_us / HOUR_US)
        for step in steps_in(ledger.client.get(clock_key(ledger.prefix)))
    ]


def test_a_step_is_recorded_once_by_whoever_sees_it_first(ledger: Ledger, put: Put) -> None:
    looking = clocks(ledger, 3)
    put(HOUR_US)
    for clock in looking:
        clock.look()

    assert recorded(ledger) == [1]


def test_who_was_late_records_a_step_that_undoes_one_which_another_has_recorded(
    ledger: Ledger, put: Put
) -> None:
    """It sees the clock as it was: its own two looks differ by nothing. The other one may be gone
    by then."""
    early, late = clocks(ledger, 2)
    put(-HOUR_US)
    early.look()
    put(HOUR_US)
    late.look()

    assert recorded(ledger) == [-1, 1]


@pytest.mark.parametrize("seed", range(20))
def test_in_any_order_of_looks_and_steps_what_is_recorded_adds_up_to_what_the_clock_was_put(
    ledger: Ledger, put: Put, seed: int
) -> None:
    rng, total = random.Random(seed), 0
    looking = clocks(ledger, 3)
    for _ in range(6):
        if rng.random() < 0.5:
            hours = rng.choice([-2, -1, 1, 2])
            put(hours * HOUR_US)
            total += hours
        rng.choice(looking).look()
    for clock in looking:
        clock.look()

    assert sum(recorded(ledger)) == total
    assert all(clock.last_step == looking[0].last_step for clock in looking)
