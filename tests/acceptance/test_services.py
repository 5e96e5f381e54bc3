"""An installation: a server, workers, a coordinator, and people who submit and look."""

from __future__ import annotations

import json
import signal
from contextlib import ExitStack

import pytest

PIPELINE = """
    import pathlib

    @step(retries=1, retry_delay=0.01)
    def unsteady(marker):
        path = pathlib.Path(marker)
        print("attempt", 2 if path.exists() else 1)
        if not path.exists():
            path.touch()
            raise OSError("the first attempt fails")
        return {"n": 1}

    @step
    def below(value: dict) -> int:
        return value["n"] + 1

    @pipeline
    def retrying(marker: str):
        below(unsteady(marker))
"""

ON_GPU = """
    steps:
      prepare: {run: "echo prepared"}
      train: {uses: "builtins:len", args: ["${{ steps.prepare.output }}"], pool: gpu}
      more: {run: "true", pool: gpu, needs: prepare}
"""


class Installation:
    def __init__(self, place, wait_until):
        self.place, self.wait_until = place, wait_until
        self._started = ExitStack()

    def start(self, *arguments):
        """Start a service; it ends with the test's module."""
        log = (self.place.folder / f"{'-'.join(arguments)}.log").open("wb")
        process = self.place.start(*arguments, stdout=log, stderr=log)
        log.close()
        self._started.callback(stop, process)
        return process

    def close(self):
        self._started.close()

    def present(self):
        """Return what `doctor` finds, by what it looked at."""
        return {
            item["what"]: item["found"]
            for item in self.place.call("doctor", "--json").json["findings"]
        }

    def ended(self, run_id):
        """Return the record of a run at its end."""
        shown = {}

        def has_ended():
            shown.update(self.place.call("show", run_id, "--json").json)
            return shown["state"] not in ("queued", "running")

        self.wait_until(has_ended)
        return shown


def stop(process):
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    assert process.wait(30) in (0, -signal.SIGTERM)


@pytest.fixture(scope="module")
def installation(tmp_path_factory, place_in, shared_redis_url, wait_until):
    """A server, one worker for pool cpu, and a coordinator. Nobody serves pool gpu."""
    variables = {
        "ORCHESTRATOR_REDIS_URL": shared_redis_url,
        "ORCHESTRATOR_KEY_PREFIX": "services",
        "ORCHESTRATOR_POOLS": (
            '{"cpu": {"queue": "services-cpu"}, "gpu": {"queue": "services-gpu"}}'
        ),
    }
    place = place_in(tmp_path_factory.mktemp("installation"), variables)
    place.write("retrying.py", PIPELINE)
    place.write("on-gpu.yaml", ON_GPU)
    made = Installation(place, wait_until)
    made.start("serve")
    made.start("worker", "--pool", "cpu", "--concurrency", "2")
    wait_until(
        lambda: (
            "2 slots on cpu@" in (found := made.present())["pool cpu"] and "coordinators" in found
        )
    )
    yield made
    made.close()


def test_a_submitted_run_goes_through_with_a_retry_that_the_coordinator_sends_off(
    installation, tmp_path
):
    done = installation.place.call("submit", "retrying.py", "-p", f"marker={tmp_path / 'marker'}")

    assert (done.code, done.err) == (0, "")
    record = installation.ended(done.out.strip())
    assert record["state"] == "succeeded"
    assert [attempt["outcome"] for attempt in record["steps"]["unsteady"]["attempts"]] == [
        "failed",
        "succeeded",
    ]
    assert record["steps"]["below"]["output"] == 2
    logs = installation.place.call("logs", record["run_id"]).out
    lines = logs.splitlines()
    assert (lines[0], lines[-1]) == (
        "unsteady attempt 1 | attempt 1",
        "unsteady attempt 2 | attempt 2",
    )
    assert lines[-2] == "unsteady attempt 1 | OSError: the first attempt fails"
    only = installation.place.call(
        "logs", record["run_id"], "unsteady", "--attempt", 2, "--json"
    ).json
    assert only == [{"step": "unsteady", "attempt": 2, "lines": ["attempt 2"], "dropped": 0}]


def test_submit_as_json_gives_the_run_id(installation, tmp_path):
    done = installation.place.call(
        "submit", "retrying.py", "-p", f"marker={tmp_path / 'marker'}", "--json"
    )

    assert set(done.json) == {"run_id", "pipeline"}
    assert installation.ended(done.json["run_id"])["pipeline"] == "retrying"


def test_run_uses_the_server_and_its_workers(installation, tmp_path):
    done = installation.place.call(
        "run", "retrying.py", "-p", f"marker={tmp_path / 'marker'}", "--json"
    )

    assert done.code == 0
    assert done.json["steps"]["below"]["attempts"][0]["worker"].startswith("cpu@")


def test_a_run_that_somebody_deletes_ends_who_follows_it_and_troubles_nobody(
    installation, redis_client
):
    place = installation.place
    kept = place.call("submit", "on-gpu.yaml").out.strip()
    with place.start("run", "on-gpu.yaml") as follower:
        installation.wait_until(lambda: kept not in place.call("runs", "--limit", 1).out)
        gone = place.call("runs", "--limit", 1, "--json").json[0]["run_id"]
        events = place.start("events", gone, "--follow")
        assert "run.created" in events.stdout.readline()

        redis_client.delete(*redis_client.keys(f"services:{{{gone}}}:*"))

        for process in (follower, events):
            out, err = process.communicate(timeout=120)
            assert process.returncode == 2
            assert err.endswith(
                f"RunNotFound: run {gone} is not on the server any more: somebody has deleted it\n"
            )
            assert "Traceback" not in out + err
    assert place.call("show", "last", "--json").json["run_id"] == kept
    assert gone not in place.call("runs").out
    assert place.call("show", gone).err.startswith("RunNotFound: there is no run")
    assert place.call("cancel", kept).code == 0


def test_events_are_followed_to_the_end_of_the_run(installation, tmp_path):
    run_id = installation.place.call(
        "submit", "retrying.py", "-p", f"marker={tmp_path / 'marker'}"
    ).out.strip()

    followed = installation.place.call("events", run_id, "--follow", "--json")

    told = [json.loads(line) for line in followed.out.splitlines()]
    assert [event["event"] for event in told] == [
        "run.created", "step.queued", "run.started", "step.started", "step.retrying", "step.queued",
        "step.started",
        "step.succeeded", "step.queued", "step.started", "step.succeeded", "run.succeeded",
    ]  # fmt: skip
    assert told == installation.place.call("events", run_id, "--json").json
    retry = told[4]["detail"]
    assert retry["error"]["type"] == "OSError"
    assert retry["outcome"] == "failed"
    lines = installation.place.call("events", run_id).out.splitlines()
    assert len(lines) == len(told)
    assert "step.retrying unsteady attempt 1" in lines[4]


def test_an_interrupted_run_is_cancelled_and_the_installation_goes_on(
    installation, tmp_path, wait_until
):
    steps = "steps: {long: {run: 'echo began; sleep 3'}, below: {run: 'true', needs: long}}"
    file = installation.place.write("long.yaml", steps)
    with installation.place.start("run", file) as process:
        wait_until(lambda: installation.place.call("logs", "last").out == "long | began\n")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)

    assert process.returncode == 130
    assert "Traceback" not in out + err
    record = installation.place.call("show", "last", "--json").json
    assert [step["state"] for step in record["steps"].values()] == ["cancelled", "cancelled"]
    again = installation.place.call("run", "retrying.py", "-p", f"marker={tmp_path / 'marker'}")
    assert again.code == 0


def test_steps_for_a_pool_that_nobody_serves_are_told_and_go_on_when_a_worker_comes(
    installation, wait_until
):
    place = installation.place
    submitted = place.call("submit", "on-gpu.yaml")
    assert submitted.code == 0
    run_id = submitted.out.strip()
    wait_until(
        lambda: (
            place.call("show", run_id, "--json").json["steps"]["prepare"]["state"] == "succeeded"
        )
    )

    shown = place.call("show", run_id)
    assert shown.out.count("waiting: no worker serves pool gpu") == 2
    assert (
        "no worker serves it: orchestrator worker --pool gpu" in installation.present()["pool gpu"]
    )
    first = place.write("gpu-first.yaml", "steps: {train: {run: 'true', pool: gpu}}")
    at_once = place.call("submit", first)
    assert "waiting: no worker serves pool gpu (step train)" in at_once.err
    with place.start("run", "on-gpu.yaml") as running:
        told = []
        while (
            not told or "waiting: no worker serves pool gpu (step train and 1 more)" not in told[-1]
        ):
            told.append(running.stdout.readline())
            assert told[-1], "the run ended without a word"
        worker = installation.start("worker", "--pool", "gpu", "--concurrency", "1")
        out, err = running.communicate(timeout=120)

    assert running.returncode == 0, (told, out, err)
    assert installation.ended(run_id)["state"] == "succeeded"
    assert installation.ended(at_once.out.strip())["state"] == "succeeded"
    stop(worker)
    assert "no worker serves it" in installation.present()["pool gpu"]


def test_two_workers_of_a_pool_have_names_of_their_own(installation, wait_until):
    second = installation.start("worker", "--pool", "cpu", "--concurrency", "1")

    wait_until(lambda: "3 slots on cpu-2@" in installation.present()["pool cpu"])
    stop(second)


def test_doctor_tells_what_is_there_and_finds_no_fault(installation):
    done = installation.place.call("doctor")

    assert done.code == 0
    for what in (
        "versions: Python",
        "append-only file: on",
        "pool cpu: 2 slots on cpu@",
        "coordinators: ",
    ):
        assert what in done.out
    assert "warning  pool gpu: no worker serves it" in done.out
    assert set(installation.place.call("doctor", "--json").json) == {"settings", "findings"}


def test_doctor_names_the_config_file_in_use(place):
    def config():
        findings = place.call("doctor", "--json").json["findings"]
        return next(item["found"] for item in findings if item["what"] == "config")

    place.variables.pop("ORCHESTRATOR_CONFIG", None)
    none = "none: defaults and ORCHESTRATOR_* only "
    assert config() == none + "(no config/orchestrator.toml in this folder)"
    file = place.folder / "config" / "orchestrator.toml"
    file.parent.mkdir()
    file.write_text("poll_interval_s = 0.1\n")
    assert config() == str(file)
    place.variables["ORCHESTRATOR_CONFIG"] = ""
    assert config() == none + "(ORCHESTRATOR_CONFIG is empty)"


def test_doctor_fails_when_the_server_is_away(tmp_path, place_in):
    place = place_in(tmp_path, {"ORCHESTRATOR_REDIS_URL": "redis://127.0.0.1:1/0"})

    done = place.call("doctor")

    assert done.code == 1
    assert "FAULT    server: the Redis server at redis://127.0.0.1:1/0 does not answer" in done.out
    assert "Traceback" not in done.out + done.err


def test_services_share_the_embedded_server_of_a_folder_and_leave_nothing(place, wait_until):
    place.write("retrying.py", PIPELINE)
    installation = Installation(place, wait_until)
    try:
        installation.start("serve")
        installation.start("worker", "--concurrency", "1")
        wait_until(lambda: "1 slots on cpu@" in installation.present()["pool cpu"])

        record = installation.ended(
            place.call("submit", "retrying.py", "-p", "marker=marker").out.strip()
        )

        assert record["state"] == "succeeded"
        assert len(record["steps"]["unsteady"]["attempts"]) == 2
    finally:
        installation.close()
    assert place.processes() == []
