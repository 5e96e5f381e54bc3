"""`orchestrator why` and the notes of `show`: what a step waits for, while it waits and when it has
ended."""

from __future__ import annotations

import os
import re
import time

import pytest

NET = """
    steps:
      load: {run: "true"}
      fit: {run: "true", needs: load, pool: gpu}
      hold: {run: "touch holding; until test -e go; do sleep 0.05; done", needs: load, timeout: 500}
      again: {run: "test -e go", needs: load, retries: 1, retry_delay: 600}
      join: {run: "true", needs: [hold, fit]}
      last: {run: "true", needs: [join, again]}
      broken: {run: "echo no disk >&2; exit 3", needs: load}
      below: {run: "true", needs: broken}
"""


@pytest.fixture(scope="module")
def waiting(tmp_path_factory, place_in, shared_redis_url, wait_until):
    """A place on a server with one worker for pool cpu and none for gpu, where a run has come as
    far as it can."""
    name = f"why-{os.getpid()}-{time.monotonic_ns()}"  # a set-up may come twice in one process
    queues = {pool: f"{name}-{pool}" for pool in ("cpu", "gpu")}
    variables = {
        "ORCHESTRATOR_REDIS_URL": shared_redis_url,
        "ORCHESTRATOR_KEY_PREFIX": name,
        "ORCHESTRATOR_POOLS": (
            "{" + ", ".join(f'"{k}": {{"queue": "{q}"}}' for k, q in queues.items()) + "}"
        ),
    }
    place = place_in(tmp_path_factory.mktemp("why"), variables)
    with (place.folder / "worker.log").open("wb") as log:
        worker = place.start("worker", "--concurrency", "2", stdout=log, stderr=log)
    run_id = place.call("submit", place.write("net.yaml", NET)).out.strip()

    def states():
        steps = place.call("show", run_id, "--json").json["steps"]
        return {name: step["state"] for name, step in steps.items()}

    expected = {
        "load": "succeeded", "fit": "queued", "hold": "running", "again": "retrying",
        "join": "waiting",
        "last": "waiting", "broken": "failed", "below": "upstream_failed",
    }  # fmt: skip
    wait_until(lambda: states() == expected)
    yield place
    place.call("cancel", run_id)
    worker.terminate()
    worker.wait(20)


def say(place, step):
    done = place.call("why", "last", step)
    assert (done.code, done.err) == (0, "")
    return re.sub(r"\d\d:\d\d:\d\d\.\d{3}", "T", re.sub(r"\d+\.\d+ s|\d+ min \d+ s", "N", done.out))


def test_every_step_says_why_it_is_where_it_is(waiting) -> None:
    worker = next(
        line for line in waiting.call("doctor").out.splitlines() if " pool cpu: " in line
    ).split(" on ")[1]
    on = f"on {worker} since T"

    assert (
        say(waiting, "join")
        == f"join waits for hold (running {on}, N) and fit (queued: no worker serves pool gpu).\n"
    )
    direct, behind = say(waiting, "last").splitlines()
    assert direct.startswith("last waits for join (waiting) and again (retrying: retry at ")
    assert direct.endswith("Z; no coordinator is there to send it: orchestrator serve starts one).")
    assert (
        behind
        == f"Those in turn wait for hold (running {on}, N) and fit (queued: no worker serves pool gpu)."
    )
    assert "No worker serves that pool" in say(waiting, "fit")
    assert "orchestrator worker --pool gpu starts one" in say(waiting, "fit")
    assert "Its message is the next one in the queue." in say(waiting, "fit")
    assert say(waiting, "hold").splitlines()[:2] == [
        f"hold runs {on} (N).",
        "Its timeout of 500 s leaves it N.",
    ]
    assert "Its lease holds for N, and is renewed while its worker lives." in say(waiting, "hold")
    retrying = say(waiting, "again").splitlines()
    assert retrying[0].startswith("Attempt 1 of again failed (")
    assert retrying[1:] == [
        "Attempt 2 is due at T, in N.",
        "No coordinator is there to send it: orchestrator serve starts one.",
    ]
    assert say(waiting, "load") == f"load succeeded on {worker} after N.\n"
    assert say(waiting, "broken").startswith("broken failed: attempt 1 failed (")
    assert say(waiting, "below").startswith("below did not run because broken failed: it failed (")


def test_show_notes_the_same_in_short(waiting) -> None:
    rows = {line.split()[0]: line for line in waiting.call("show", "last").out.splitlines()}

    assert rows["fit"].endswith("waiting: no worker serves pool gpu")
    assert rows["join"].endswith("waits for hold and fit")
    assert rows["last"].endswith("waits for join and again")
    assert re.search(
        r"retry at \S+Z; no coordinator is there to send it: orchestrator serve starts one$",
        rows["again"],
    )


def test_programs_get_facts(waiting) -> None:
    facts = {
        step: waiting.call("why", "last", step, "--json").json
        for step in ("last", "fit", "hold", "below")
    }

    assert facts["last"]["state"] == "waiting"
    assert facts["last"]["waits_for"] == {"join": "waiting", "again": "retrying"}
    assert facts["last"]["behind"] == {"hold": "running", "fit": "queued"}
    assert (facts["fit"]["pool"], facts["fit"]["workers"], facts["fit"]["messages_ahead"]) == (
        "gpu",
        [],
        0,
    )
    assert 0 < facts["hold"]["timeout_left_s"] < 500
    assert facts["below"]["because"] == "broken"
    assert all(told["reasons"] for told in facts.values())


def test_a_step_that_is_not_there_is_guessed(waiting) -> None:
    done = waiting.call("why", "last", "brokn")

    assert done.code == 2
    assert "has no step 'brokn'. Did you mean 'broken'?" in done.err
