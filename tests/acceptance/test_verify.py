"""`orchestrator verify`: nothing is wrong with what the product does, and what somebody forged is
told."""

from __future__ import annotations

import re

import pytest

from orchestrator.ledger.connection import connect
from orchestrator.ledger.ledger import Ledger
from orchestrator.local.server import embedded_server

WORK = """
    import os

    @step(retries=1, retry_delay=0.05)
    def flaky():
        if not os.path.exists("tried"):
            open("tried", "w").close()
            raise RuntimeError("not yet")
        return 1

    @step
    def gate(value, mended: bool):
        if not mended:
            raise ValueError("the gate is closed")
        return value

    @step
    def below(value):
        return value

    @step(trigger="all_done")
    def tidy(value):
        return "tidied"

    @pipeline
    def work(mended: bool = False):
        tidy(below(gate(flaky(), mended)))
"""


@pytest.fixture(scope="module")
def worked(tmp_path_factory, place_in):
    """A folder in which a run has failed and was resumed to its success."""
    place = place_in(tmp_path_factory.mktemp("verify"))
    place.write("work.py", WORK)
    assert place.call("run", "work.py").code == 1
    assert place.call("resume", "last", "-p", "mended=true").code == 0
    return place


def test_a_run_that_was_retried_failed_and_resumed_has_no_violation(worked):
    done = worked.call("verify", "last")

    assert (done.code, done.err) == (0, "")
    told = r"run \S+ succeeded: (\d+) events, 4 steps, (\d+) attempts checked, no violation\n"
    events, attempts = map(int, re.fullmatch(told, done.out).groups())
    recorded = worked.call("events", "last", "--json").json
    assert events == len(recorded)
    # flaky twice, gate, tidy; then gate, below, and tidy again, for what it was decided by was open
    # again.
    assert attempts == [event["event"] for event in recorded].count("step.started") == 7


def test_as_json_it_has_all_that_was_checked(worked):
    done = worked.call("verify", "last", "--json")

    assert done.code == 0
    checked = ["run_id", "state", "events", "steps", "attempts", "repairs", "violations", "remarks"]
    assert list(done.json) == checked
    assert (done.json["state"], done.json["steps"], done.json["violations"]) == ("succeeded", 4, [])


def test_a_run_that_there_is_not_is_a_mistake_of_the_user(worked):
    done = worked.call("verify", "nonsense")

    assert done.code == 2
    assert done.out == ""
    assert "there is no run 'nonsense'" in done.err


def test_a_forged_record_is_told_and_ends_with_1(worked):
    run_id = worked.call("show", "last", "--json").json["run_id"]
    with embedded_server(worked.folder / ".orchestrator") as url, connect(url) as client:
        ledger = Ledger(client)
        ledger.client.hincrby(ledger.key(run_id, "run"), "n:succeeded", 1)
        try:
            done = worked.call("verify", run_id)
            as_json = worked.call("verify", run_id, "--json")
        finally:
            ledger.client.hincrby(ledger.key(run_id, "run"), "n:succeeded", -1)

    assert done.code == 1
    first, second = done.out.splitlines()
    assert first.endswith("checked, 1 violation")
    assert second == "  4 steps are succeeded, but the ledger counts 5"
    assert (as_json.code, as_json.json["violations"]) == (1, [second.strip()])
