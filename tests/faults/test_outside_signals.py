"""Somebody sends a signal to the process that runs a step: the record says which, and never that
time was up."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from tests.support.site.site import Site

HIT = """
    @step(timeout=600, retries={retries})
    def hit():
        if is_first("began"):
            note("pid", os.getpid())
            wait_for("told")
        return "second time"

    @pipeline
    def struck():
        hit()
"""

# What raises in the step is its failure; what ends the process at once leaves a lost attempt.
RAISED = [signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM]
DEADLY = [
    signal.SIGALRM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGVTALRM,
    signal.SIGPROF,
    signal.SIGIO,
    signal.SIGRTMIN,
]


@pytest.mark.parametrize("signum", [*RAISED, *DEADLY], ids=str)
def test_a_signal_from_outside_is_told_as_what_it_was(shared: Site, signum: Any) -> None:
    run = shared.submit(HIT.format(retries=1))
    os.kill(int(run.wait_for_note("pid")), signum)

    record = run.wait(lambda record: record.state.is_ended)

    first, second = record.steps["hit"].attempts
    assert (first.outcome, second.outcome) == (
        "failed" if signum in RAISED else "lost",
        "succeeded",
    )
    assert signal.Signals(signum).name in first.error.message
    assert ("SignalReceived" in first.error.type) is (signum in RAISED)


@pytest.mark.parametrize("signum", RAISED, ids=str)
def test_a_signal_from_outside_costs_a_retry(shared: Site, signum: int) -> None:
    run = shared.submit(HIT.format(retries=0))
    os.kill(int(run.wait_for_note("pid")), signum)

    record = run.wait(lambda record: record.state.is_ended)

    assert record.state == "failed"
    assert [attempt.outcome for attempt in record.steps["hit"].attempts] == ["failed"]


CAUGHT = """
    @step(timeout=1)
    def hit():
        note("pid", os.getpid())
        try:
            wait_for("told")
        except Exception as error:
            note("caught", error)
        time.sleep(600)

    @pipeline
    def struck():
        hit()
"""


@pytest.mark.parametrize("signum", RAISED[:2], ids=str)
def test_a_step_that_outlives_a_signal_from_outside_can_still_time_out(
    shared: Site, signum: Any
) -> None:
    run = shared.submit(CAUGHT)
    os.kill(int(run.wait_for_note("pid")), signum)

    record = run.wait(lambda record: record.state.is_ended)

    assert [attempt.outcome for attempt in record.steps["hit"].attempts] == ["timed_out"]
    assert signal.Signals(signum).name in (run.noted("caught") or "")


STOLEN = """
    @step
    def steals():
        import faulthandler, threading
        {how}

    @step(timeout=0.5)
    def sleeps(after):
        time.sleep(600)

    @pipeline
    def struck():
        sleeps(steals())
"""


@pytest.mark.parametrize(
    "how",
    [
        "signal.signal(signal.SIGUSR1, signal.SIG_IGN)",
        "faulthandler.register(signal.SIGUSR1)",
    ],
)
def test_a_step_that_takes_our_signal_keeps_no_later_one_from_timing_out(
    site: Site, how: str
) -> None:
    site.add_workers(1, slots=1)
    run = site.submit(STOLEN.format(how=how))

    record = run.wait(lambda record: record.state.is_ended)

    (attempt,) = record.steps["sleeps"].attempts
    assert attempt.outcome == "timed_out"
    assert "killed" not in attempt.error.message
