"""Real workflows run: each step once, in order, and in the time that four slots allow.

They lie beside the repository, or where WORKFLOWS_DIR says, and may be absent.
"""

from __future__ import annotations

import gzip
import json
import os
from datetime import datetime
from pathlib import Path

import pytest

from orchestrator import PipelineBuilder
from orchestrator.definition.pipeline import FunctionCall

FOLDER = Path(os.environ.get("WORKFLOWS_DIR") or Path(__file__).parents[3] / "shared" / "workflows")
INDEX = (
    {entry["name"]: entry for entry in json.loads((FOLDER / "INDEX.json").read_text())}
    if FOLDER.is_dir()
    else {}
)
SCALED = ["montage-58", "epigenomics-41", "airflow-complex-37", "srasearch-22"]
SCALED_TOO = [
    "tfx-taxi-8",
    "nf-scrnaseq-14",
    "nf-sarek-26",
    "blast-43",
    "nf-fetchngs-43",
    "1000genome-104",
]
AT_ONCE = ["cycles-219", "nf-rnaseq-197", "seismology-1101"]
TOLERANCE = 0.10
LOOKS = 3  # a busy machine can only make a run longer

pytestmark = [
    pytest.mark.alone,  # it measures time
    pytest.mark.skipif(
        not INDEX, reason="no real workflows beside the repository; set WORKFLOWS_DIR"
    ),
]


def built(name, scale):
    """Return the workflow as a pipeline of sleeps."""
    path = FOLDER / INDEX[name]["file"]
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    builder = PipelineBuilder(name)
    for step in json.loads(text)["steps"]:
        builder.add(
            step["id"], "time:sleep", args=[step["runtime_s"] * scale], needs=step["upstream"]
        )
    return builder.build()


def write_document(place, pipeline):
    """Write the pipeline as a file that the command reads. JSON is YAML."""
    steps = {}
    for name, step in pipeline.steps.items():
        assert isinstance(step.call, FunctionCall)
        steps[name] = {
            "uses": step.call.uses,
            "args": list(step.call.args),
            "needs": list(step.upstream),
        }
    suffix = "yaml" if len(steps) < 500 else "json"
    return place.write(f"workflow.{suffix}", json.dumps({"name": pipeline.name, "steps": steps}))


def makespan_s(record):
    attempts = [attempt for step in record["steps"].values() for attempt in step["attempts"]]
    began = min(datetime.fromisoformat(attempt["started_at"]) for attempt in attempts)
    ended = max(datetime.fromisoformat(attempt["ended_at"]) for attempt in attempts)
    return (ended - began).total_seconds()


@pytest.fixture(scope="module")
def scaled_runs(tmp_path_factory, place_in):
    """Run several workflows side by side, each on four slots of its own: sleeps leave the cores
    idle."""
    started = {}
    for name in SCALED:
        place = place_in(tmp_path_factory.mktemp(name))
        file = write_document(place, built(name, INDEX[name]["sleep_scale_for_5s_on_4_workers"]))
        started[name] = place.start("run", file, "--workers", 4, "--json")
    records = {}
    for name, process in started.items():
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        records[name] = json.loads(out)
    return records


def is_in_time(name, record):
    entry = INDEX[name]
    expected_s = entry["fifo_makespan_4_s"] * entry["sleep_scale_for_5s_on_4_workers"]
    print(f"{name}: {makespan_s(record):.2f} s, to be {expected_s:.2f} s")
    return makespan_s(record) == pytest.approx(expected_s, rel=TOLERANCE)


def run_alone(place, name):
    file = write_document(place, built(name, INDEX[name]["sleep_scale_for_5s_on_4_workers"]))
    done = place.call("run", file, "--workers", 4, "--json")
    assert done.code == 0
    return done.json


@pytest.mark.parametrize("name", SCALED)
def test_a_scaled_workflow_takes_the_time_that_four_slots_allow(
    scaled_runs, place, assert_exact, name
):
    record = scaled_runs[name]

    assert len(record["steps"]) == INDEX[name]["steps"]
    assert_exact(record)
    assert is_in_time(name, record) or any(
        is_in_time(name, run_alone(place, name)) for _ in range(1, LOOKS)
    )


@pytest.mark.long
@pytest.mark.parametrize("name", SCALED_TOO)
def test_another_scaled_workflow_takes_the_time_that_four_slots_allow(place, assert_exact, name):
    for _ in range(LOOKS):
        record = run_alone(place, name)
        assert_exact(record)
        if is_in_time(name, record):
            return
    pytest.fail("each look took longer than four slots need, or less")


@pytest.mark.parametrize(
    "name", [*AT_ONCE, pytest.param("montage-gen-9981", marks=pytest.mark.long)]
)
def test_a_large_workflow_runs_without_sleeps(place, assert_exact, name):
    done = place.call("run", write_document(place, built(name, 0)), "--json", within_s=110)

    assert done.code == 0
    assert len(done.json["steps"]) == INDEX[name]["steps"]
    assert_exact(done.json)
