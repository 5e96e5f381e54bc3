"""`orchestrator cancel`: of a run, of single steps; what ran is gone, and the record says how."""

from __future__ import annotations

import os

import pytest

STUBBORN = """
    steps:
      quick: {run: "true"}
      polite: {run: "touch polite; sleep 600", needs: quick}
      stubborn:
        run: "trap '' TERM; sh -c 'trap \\"\\" TERM; sleep 600' & touch stubborn; while true; do sleep 600; done"
        needs: quick
      below: {run: "true", needs: polite}
      alarm: {run: "echo alarm", needs: polite, trigger: one_failed}
      late: {run: "true", needs: [stubborn, alarm]}
"""


@pytest.fixture
def started(place, wait_until):
    """Start a run in the foreground; give it once two of its steps are running."""
    place.variables["ORCHESTRATOR_TIMEOUT_GRACE_S"] = "0.5"
    process = place.start("run", place.write("stubborn.yaml", STUBBORN))
    wait_until(lambda: {"polite", "stubborn"} <= set(os.listdir(place.folder)))
    yield process
    process.kill()
    process.communicate()


def test_a_cancelled_run_is_gone_with_all_that_its_steps_started(
    place, started, wait_until
) -> None:
    done = place.call("cancel", "last", "--reason", "the data is wrong")

    assert done.code == 0
    out, err = started.communicate(timeout=120)
    assert started.returncode == 1
    assert "Traceback" not in out + err + done.err
    run_id = place.call("runs", "--json").json[0]["run_id"]
    assert done.out.splitlines()[0] == f"run {run_id} is cancelled, with 5 steps that had not ended"
    told = {line.split()[0]: line for line in done.out.splitlines()[1:]}
    assert told.keys() == {"polite", "stubborn"}
    assert "stopped after 0." in told["polite"]
    assert "reason: the data is wrong" in out
    assert out.splitlines()[-1] == f"go on with: orchestrator resume {run_id}"
    shown = place.call("show", run_id, "--json").json
    assert (shown["state"], shown["cancel_reason"]) == ("cancelled", "the data is wrong")
    states = [step["state"] for step in shown["steps"].values()]
    assert states == ["succeeded", *["cancelled"] * 5]
    assert shown["steps"]["stubborn"]["attempts"][0]["stopped"]["processes"] >= 2
    wait_until(lambda: not place.processes())

    again = place.call("cancel", run_id)
    assert (again.code, again.out) == (0, f"run {run_id} has ended already: cancelled\n")
    as_json = place.call("cancel", run_id, "--json").json
    assert as_json == {
        "run_id": run_id,
        "state": "cancelled",
        "cancelled": 0,
        "stopped": [],
        "stopping": [],
    }
    why = place.call("why", run_id, "polite").out
    assert "polite was cancelled: the data is wrong." in why
    assert "Its attempt was stopped after 0." in why


def test_of_a_cancelled_step_the_run_goes_on_and_what_is_below_it_follows_its_rules(
    place, started
) -> None:
    done = place.call("cancel", "last", "polite", "quick", "--json")

    assert done.code == 0
    told = done.json
    assert (told["state"], told["cancelled"], told["stopping"]) == ("running", 1, [])
    assert told["reason"].startswith("cancelled by ")
    (stopped,) = told["stopped"]
    assert (stopped["step"], stopped["attempt"]) == ("polite", 1)
    states = {
        name: step["state"]
        for name, step in place.call("show", "last", "--json").json["steps"].items()
    }
    assert states["below"] == "upstream_failed"
    assert states["stubborn"] == "running"
    assert states["alarm"] in ("queued", "running", "succeeded")

    rest = place.call("cancel", "last", "stubborn", "polite", "--no-wait")
    assert rest.code == 0
    assert "cancelled 1 step, 1 had ended already" in rest.out
    out, _ = started.communicate(timeout=120)
    assert started.returncode == 1
    assert "polite cancelled: cancelled by " in out
    assert "not run, because polite was cancelled: below" in out
    shown = place.call("show", "last", "--json").json
    assert shown["state"] == "cancelled"
    assert shown["steps"]["alarm"]["state"] == "succeeded"
    # the run waited for it before it ended
    assert "how" in shown["steps"]["stubborn"]["attempts"][0]["stopped"]


def test_what_is_not_there_cannot_be_cancelled(place) -> None:
    assert place.call("cancel", "none").code == 2
    place.call("run", place.write("one.yaml", 'steps: {one: {run: "true"}}'))
    unknown = place.call("cancel", "last", "on")
    assert unknown.code == 2
    assert "has no step 'on'. Did you mean 'one'?" in unknown.err
    ended = place.call("cancel", "last", "one")
    assert ended.code == 0
    assert ended.out.endswith(": the step had ended already\n")
