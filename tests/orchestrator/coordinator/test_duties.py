"""A round goes through a list of duties, each at its pace and with failures of its own."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import pytest
from redis.exceptions import ConnectionError

from orchestrator.coordinator.duties import Done, Rounds


@dataclass
class Counted:
    """A duty that counts how often it is done, and fails as it is told."""

    name: str
    pace_s: float = 0.0
    wanted_s: float | None = None
    error: Exception | None = None
    times: list[float] = field(default_factory=list)

    def do(self, now: float) -> float | None:
        self.times.append(now)
        if self.error:
            raise self.error
        return self.wanted_s


def test_each_duty_is_done_at_its_own_pace() -> None:
    often, seldom = Counted("often"), Counted("seldom", pace_s=3600)
    rounds = Rounds([often, seldom])

    for _ in range(3):
        rounds.go(1.0)

    assert (len(often.times), len(seldom.times)) == (3, 1)


def test_the_next_round_comes_when_the_first_duty_wants_it() -> None:
    assert (
        Rounds([Counted("a", wanted_s=0.2), Counted("b", wanted_s=0.1), Counted("c")]).go(0.5)
        == 0.1
    )
    assert Rounds([Counted("a", wanted_s=7.0), Counted("b")]).go(0.5) == 0.5


def test_a_duty_that_fails_holds_up_no_other_and_is_logged_once_until_it_succeeds(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken, sound = Counted("broken", error=ValueError("why")), Counted("sound")
    rounds = Rounds([broken, sound])

    with caplog.at_level(logging.INFO):
        for _ in range(3):
            rounds.go(1.0)
        assert [record.levelno for record in caplog.records] == [logging.ERROR]
        broken.error = None
        rounds.go(1.0)

    assert len(sound.times) == 4
    assert len(caplog.records) == 2


def test_a_round_ends_when_the_server_is_away_and_what_was_cut_short_comes_first_again() -> None:
    away, behind = Counted("away", pace_s=3600, error=ConnectionError()), Counted("behind")
    rounds = Rounds([away, behind])

    with pytest.raises(ConnectionError):
        rounds.go(1.0)
    assert behind.times == []
    away.error = None
    rounds.go(1.0)

    assert (len(away.times), len(behind.times)) == (2, 1)


def test_whoever_observes_hears_of_each_time_that_a_duty_was_done() -> None:
    seen: list[Done] = []
    error = ValueError("why")

    Rounds([Counted("broken", error=error), Counted("sound")], seen.append).go(1.0)

    assert [(done.duty, done.error) for done in seen] == [("broken", error), ("sound", None)]
    assert all(done.took_s >= 0 for done in seen)
