"""Runs that were interrupted or killed go on, and so do those whose outputs are gone."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections import Counter

import pytest

from tests.support.resume_places import ran

HOLDING = """
    steps:
      a: {run: "echo a >> ran"}
      hold: {run: "echo hold >> ran; test -e good || { touch holding; sleep 600; }", needs: a}
      below: {run: "echo below >> ran", needs: hold}
"""


def test_a_run_that_was_interrupted_goes_on_and_can_be_interrupted_again(place, wait_until) -> None:
    file = place.write("holding.yaml", HOLDING)
    for arguments in (["run", file], ["resume", "last"]):
        (place.folder / "holding").unlink(missing_ok=True)
        with place.start(*arguments) as process:
            wait_until(lambda: (place.folder / "holding").exists())
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=120)
        assert process.returncode == 130
        assert "hold stopped after" in out
        assert out.splitlines()[-1].startswith("go on with: orchestrator resume ")
        assert "Traceback" not in out + err
    (place.folder / "good").touch()

    done = place.call("resume", "last", "--json")

    assert done.code == 0
    assert ran(place) == {"a": 1, "hold": 3, "below": 1}
    assert [it["outcome"] for it in done.json["steps"]["hold"]["attempts"]] == [
        "cancelled",
        "cancelled",
        "succeeded",
    ]
    assert all("how" in it["stopped"] for it in done.json["steps"]["hold"]["attempts"][:2])


def test_a_run_whose_command_was_killed_is_cancelled_first_and_then_goes_on(
    place, wait_until
) -> None:
    place.variables["ORCHESTRATOR_LEASE_S"] = "1"
    with place.start("run", place.write("holding.yaml", HOLDING)) as process:
        wait_until(lambda: (place.folder / "holding").exists())
        process.kill()
    wait_until(lambda: not place.processes())

    refused = place.call("resume", "last")
    assert refused.code == 2
    run_id = place.call("runs", "--json").json[0]["run_id"]
    assert f"run {run_id} is running: only a run that has ended can be resumed." in refused.err
    assert f"orchestrator cancel {run_id}" in refused.err

    cancelled = place.call("cancel", run_id)
    assert cancelled.code == 0
    assert "hold stopped: its worker is gone: the lease ran out" in cancelled.out
    (place.folder / "good").touch()
    assert place.call("resume", run_id).code == 0
    assert ran(place) == {"a": 1, "hold": 2, "below": 1}


@pytest.fixture
def server(tmp_path, place_in, shared_redis_url, wait_until):
    """A place whose runs go to a server with one worker."""
    variables = {
        "ORCHESTRATOR_REDIS_URL": shared_redis_url,
        "ORCHESTRATOR_KEY_PREFIX": f"resume-{os.getpid()}-{time.monotonic_ns()}",
        "ORCHESTRATOR_POOLS": f'{{"cpu": {{"queue": "resume-{os.getpid()}"}}}}',
    }
    place = place_in(tmp_path / "server", variables)
    with (place.folder / "worker.log").open("wb") as log:
        worker = place.start("worker", "--concurrency", "2", stdout=log, stderr=log)
    wait_until(lambda: "2 slots on" in place.call("doctor").out)
    yield place
    worker.terminate()
    worker.wait(20)


def test_of_two_resumes_at_once_on_a_server_one_goes_through_and_nothing_runs_twice(server) -> None:
    steps = "".join(f'  s{n}: {{run: "echo s{n} >> ran", needs: gate}}\n' for n in range(20))
    file = server.write(
        "wide.yaml", 'steps:\n  gate: {run: "echo gate >> ran; test -e good"}\n' + steps
    )
    assert server.call("run", file).code == 1
    (server.folder / "good").touch()
    ran(server)

    both = [server.start("resume", "last") for _ in range(2)]
    told = [process.communicate(timeout=40) for process in both]

    assert sorted(process.returncode for process in both) == [0, 2]
    refused = told[[process.returncode for process in both].index(2)][1]
    late = (
        "somebody else has just resumed run",
        "only a run that has ended can be resumed",
        "has succeeded",
    )
    assert any(words in refused for words in late), refused
    assert ran(server) == {"gate": 1, **{f"s{n}": 1 for n in range(20)}}

    first = server.call("runs", "--json").json[0]["run_id"]
    detached = server.call("rerun", "last", "--from", "s3", "--detach")
    assert (detached.code, detached.err) == (0, "")
    run_id = detached.out.strip()
    followed = server.call("events", run_id, "-f").out.splitlines()
    assert followed[-1].split()[1] == "run.succeeded"
    assert ran(server) == {"s3": 1}
    record = server.call("show", run_id, "--json").json
    assert (record["rerun_of"], sum("reused" in step for step in record["steps"].values())) == (
        first,
        20,
    )

    (server.folder / "good").unlink()
    assert server.call("rerun", "last", "--from", "gate").code == 1
    (server.folder / "good").touch()
    detached = server.call("resume", "last", "--detach")
    assert (detached.code, detached.err) == (0, "")
    followed = server.call("events", detached.out.strip(), "-f").out.splitlines()
    ends = [line.split()[1] for line in followed if line.split()[1].startswith("run.")]
    assert ends[-2:] == ["run.resumed", "run.succeeded"]  # earlier ends did not end the following


def test_a_step_whose_output_is_gone_from_the_store_is_run_again(place) -> None:
    """The step that reads it would fail at each resume."""
    file = place.write(
        "reading.py",
        """
        import pathlib

        def note(step):
            with pathlib.Path("ran").open("a") as file:
                file.write(step + "\\n")

        @step
        def load():
            note("load")
            return list(range(100_000))

        @step
        def beside():
            note("beside")

        @step
        def total(rows):
            note("total")
            if not pathlib.Path("mended").exists():
                raise RuntimeError("not yet")
            return sum(rows)

        @pipeline
        def reading():
            beside()
            total(load())
        """,
    )
    first = place.call("run", file, "--json").json
    artifact = first["steps"]["load"]["output"]["artifact"]["path"]
    shutil.rmtree(place.folder / ".orchestrator" / "artifacts" / first["run_id"])
    (place.folder / "mended").touch()

    done = place.call("resume", "last", "--json")

    assert (
        f"step load is run again: its output {artifact} is not in the artifact store any more"
        in done.err
    )
    assert (done.code, done.json["steps"]["total"]["output"]) == (0, sum(range(100_000)))
    assert Counter((place.folder / "ran").read_text().split()) == {
        "load": 2,
        "beside": 1,
        "total": 2,
    }
    assert place.call("verify", "last").code == 0
