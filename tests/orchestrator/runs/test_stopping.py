"""Waiting until what was cancelled is gone."""

from __future__ import annotations

import threading
from itertools import count

import pytest

from orchestrator.attempt_id import AttemptId
from orchestrator.ledger.values import OwnedAttempt
from orchestrator.runs.stopping import wait_until_stopped
from tests.support.runs import start_graph


@pytest.fixture
def run_id(ledger) -> str:
    """A run of which two steps run and a third is queued."""
    made = start_graph(ledger, {"a": "", "b": "", "c": ""})
    for step in "ab":
        ledger.claim(AttemptId(made, step, 1), "i.7.x", "w", lease_s=600)
    return made


def gone(ledger, run_id: str, step: str) -> None:
    ledger.report_stopped(
        OwnedAttempt(AttemptId(run_id, step, 1), "w i.7."), {"how": "it ended when asked"}
    )


def test_nothing_is_waited_for_when_nothing_is_being_stopped(ledger, chosen, run_id) -> None:
    assert wait_until_stopped(ledger, chosen, run_id, 30.0) == []


def test_the_wait_ends_when_the_last_attempt_is_gone(ledger, chosen, run_id) -> None:
    ledger.cancel(run_id, "")
    gone(ledger, run_id, "a")
    timer = threading.Timer(0.05, gone, (ledger, run_id, "b"))
    timer.start()

    assert wait_until_stopped(ledger, chosen, run_id, 30.0) == []
    timer.join()


def test_what_is_left_at_the_limit_is_told(ledger, chosen, run_id) -> None:
    ledger.cancel(run_id, "")
    gone(ledger, run_id, "a")

    (left,) = wait_until_stopped(ledger, chosen, run_id, 0.0)

    assert (left.step, left.attempt, left.worker, left.is_stopping) == ("b", 1, "w", True)


def test_who_waits_may_have_enough_at_any_time(ledger, chosen, run_id) -> None:
    ledger.cancel(run_id, "")
    looks = count()

    left = wait_until_stopped(ledger, chosen, run_id, 3600.0, is_enough=lambda: next(looks) == 2)

    assert len(left) == 2
    assert next(looks) == 3  # it was not asked again


def test_of_a_run_that_goes_on_only_the_named_steps_are_waited_for(ledger, chosen, run_id) -> None:
    ledger.cancel_steps(run_id, ["a", "b"], "")
    gone(ledger, run_id, "a")
    checked: list[str] = []

    assert wait_until_stopped(ledger, chosen, run_id, 30.0, steps=["a"], visit=checked.append) == []
    (left,) = wait_until_stopped(ledger, chosen, run_id, 0.05, steps=["b"], visit=checked.append)
    assert left.step == "b"
    assert set(checked) == {run_id}
