"""Where a control group is delegated, the kernel keeps a step's memory limit; else the log says
that it is watched."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from orchestrator.worker import memory_groups
from orchestrator.worker.memory_groups import STEP, NoGroups, find_home, is_delegated
from tests.support.fixtures import PipelineFrom, States
from tests.support.worker_runs import OwnWorker, Runs

# A gigabyte in one call: watching, ten times a second, would find far more than the limit, or the
# step ended.
ALL_AT_ONCE = 'b"x" * 1_000_000_000'
TAKING = """
    import os, subprocess, sys

    def start(*before):
        return subprocess.Popen([*before, sys.executable, "-c", 'x = {all_at_once}'])

    @step(memory="200MB", retries={retries}, retry_delay=0)
    def takes():
        {how}

    @step(memory="200MB")
    def within():
        return len(b"x" * 50_000_000)

    @step
    def free():
        return open("/proc/self/cgroup").read()

    @pipeline
    def taking():
        takes()
        within()
        free()
"""
WAYS = {
    "itself": "return len({all_at_once})",
    "a process that it waits for": "start().wait(); return 1",
    "a process that it has forgotten": (
        "start('sh', '-c', '\"$@\" & sleep 600', 'sh').wait(); return 1"
    ),
    "though it catches everything": (
        """
        while True:
            try:
                {all_at_once}
            except BaseException:
                pass"""
    ),
}


@pytest.fixture(scope="module")
def home() -> Path:
    try:
        return find_home()[0]
    except (NoGroups, OSError) as error:
        pytest.skip(f"no control group is delegated to these tests: {error}")


def pipeline_text(way: str, retries: int = 0) -> str:
    how = WAYS[way].strip().format(all_at_once=ALL_AT_ONCE)
    return TAKING.format(how=how, retries=retries, all_at_once=ALL_AT_ONCE.replace('"', '\\"'))


def groups_in(home: Path) -> list[str]:
    return [path.name for path in home.glob(f"{STEP}*")]


@pytest.mark.parametrize("way", WAYS)
def test_what_needs_more_at_once_never_has_it(
    home: Path, runs: Runs, pipeline_from: PipelineFrom, states: States, way: str
) -> None:
    record = runs.run(pipeline_from(pipeline_text(way)), within_s=120)

    assert states(record) == {"takes": "failed", "within": "succeeded", "free": "succeeded"}
    (attempt,) = record.steps["takes"].attempts
    assert attempt.outcome == "failed"
    assert attempt.error.type.endswith("MemoryLimitExceeded")
    assert "its limit (option memory) is 200 MB; the kernel ended it" in attempt.error.message
    assert STEP not in runs.value(record, "free")
    assert not groups_in(home)


def test_it_is_a_failure_of_the_step_and_is_tried_again(
    home: Path, runs: Runs, pipeline_from: PipelineFrom
) -> None:
    record = runs.run(pipeline_from(pipeline_text("itself", retries=2)), within_s=120)

    assert [attempt.outcome for attempt in record.steps["takes"].attempts] == ["failed"] * 3


def test_a_new_worker_removes_the_groups_of_dead_ones(home: Path, own_worker: OwnWorker) -> None:
    pid = next(pid for pid in range(2, 4_000_000) if not psutil.pid_exists(pid))
    left, foreign = home / f"{STEP}{pid}-{pid}-1", home / "another"
    for group in (left, foreign):
        group.mkdir()
    try:
        with own_worker(slots=1):
            assert not left.exists()
            assert foreign.exists()
    finally:
        foreign.rmdir()


def test_a_group_that_is_not_marked_is_left_alone(tmp_path: Path) -> None:
    assert not is_delegated(tmp_path)
    (tmp_path / "cgroup.type").write_text("domain\n")
    assert not is_delegated(tmp_path)
    try:
        os.setxattr(tmp_path, "user.delegate", b"1")
    except OSError as error:
        pytest.skip(f"this file system has no attributes: {error}")
    assert is_delegated(tmp_path)


def test_the_log_says_once_which_way_is_used(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def nothing() -> None:
        raise NoGroups("it is a test of the log")

    monkeypatch.setattr(memory_groups, "_prepare", nothing)
    with caplog.at_level("INFO", logger=memory_groups.__name__):
        memory_groups.prepare_groups()

    assert [record.getMessage() for record in caplog.records] == [
        "the option memory is kept by watching: no control group can be used (it is a test of the"
        " log)"
    ]
    assert not memory_groups.enter_group(1)
