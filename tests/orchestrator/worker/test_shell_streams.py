"""The streams of a command: what it leaves running, closes or writes without end."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.artifacts.reference import artifact_of
from orchestrator.settings.model import Settings
from tests.support.fixtures import PipelineFrom, WaitUntil
from tests.support.shell import error_of
from tests.support.worker_runs import OwnWorker, Runs


def test_what_a_command_leaves_running_with_its_standard_output_does_not_hold_the_step(
    runs: Runs, shell: Any, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    record = shell(
        f"(until [ -e {gate} ]; do sleep 0.05; done; echo late) & echo early; echo '{gate}' >&2"
    )

    assert record.state == "succeeded"
    assert runs.value(record, "command") == "early"
    gate.touch()


def test_what_is_left_running_and_writes_without_end_holds_neither_the_step_nor_a_core(
    runs: Runs, shell: Any, tmp_path: Path
) -> None:
    pid = tmp_path / "pid"
    record = shell(f"yes noise & echo $! > {pid}")
    left = psutil.Process(int(pid.read_text()))

    try:
        assert record.state == "succeeded"
        assert set(str(runs.value(record, "command") or "noise").split()) == {"noise"}
        began, used = time.monotonic(), sum(left.cpu_times()[:2])
        time.sleep(1)
        assert sum(left.cpu_times()[:2]) - used < 0.1 * (time.monotonic() - began)
    finally:
        left.kill()


REOPENED = {
    "redirected": "echo seen > {stream}",
    "opened for good": "exec 3> {stream}; echo seen >&3; exec 3>&-",
    "emptied": ": > {stream}; echo seen >> {stream}",
    "opened by another program": (
        f'{sys.executable} -c \'open("{{stream}}", "w").write("seen\\n")\''
    ),
}


@pytest.mark.parametrize(
    "stream", ["/dev/stdout", "/dev/stderr", "/proc/self/fd/1", "/proc/self/fd/2"]
)
@pytest.mark.parametrize("way", REOPENED)
def test_what_a_command_has_written_stays_however_it_opens_its_streams_anew(
    runs: Runs, shell: Any, way: str, stream: str
) -> None:
    command = REOPENED[way].format(stream=stream)
    record = shell(f"echo out; echo err >&2; {command}; echo 'last out'; echo 'last err' >&2")

    log = runs.log(record, "command")
    assert record.state == "succeeded", record
    assert [line for line in log if line.endswith("out")] == ["out", "last out"]
    assert [line for line in log if line.endswith("err")] == ["err", "last err"]
    assert "seen" in log


def test_what_a_command_leaves_running_may_go_on_to_write_to_both_streams(
    runs: Runs, shell: Any, tmp_path: Path, wait_until: WaitUntil
) -> None:
    go_on, is_done = tmp_path / "go-on", tmp_path / "is-done"
    loop = f"until [ -e {go_on} ]; do sleep 0.05; done; yes noise | head -c 300000"
    record = shell(f"(({loop}) && ({loop}) >&2 && touch {is_done}) & echo early; echo early >&2")

    assert record.state == "succeeded"
    assert runs.log(record, "command") == ["early", "early"]
    go_on.touch()
    wait_until(is_done.exists)


def test_a_command_that_closes_its_standard_output_is_waited_for(
    runs: Runs, shell: Any, tmp_path: Path
) -> None:
    record = shell(f"echo early; exec >&-; sleep 0.3; touch {tmp_path}/late")

    assert runs.value(record, "command") == "early"
    assert (tmp_path / "late").exists()


def test_a_large_output_is_kept_whole_and_by_reference(runs: Runs, shell: Any) -> None:
    record = shell("yes 0123456789abcde | head -c 5000000; printf '\\303\\251'")

    value = runs.value(record, "command")
    assert value == ("0123456789abcde\n" * 312_500) + "é"
    assert artifact_of(json.loads(record.outputs["command"])).kind == "str"


def test_an_output_beyond_the_limit_fails_the_attempt_and_ends_the_command(
    own_worker: OwnWorker, settings: Settings, pipeline_from: PipelineFrom, tmp_path: Path
) -> None:
    chosen = settings.model_copy(update={"shell_output_mb": 1})
    with own_worker(chosen=chosen) as runs:
        record = runs.run(
            pipeline_from(f"""
                shell = PipelineBuilder("shell")
                shell.add("below", run="yes | head -c 1048576 | tr -d '\\n'")
                shell.add("above", run="yes | head -c 1048577; touch {tmp_path}/not-reached; sleep 600")
            """)
        )

    assert runs.value(record, "below") == "y" * 524_288
    assert record.steps["above"].state == "failed"
    assert "the command wrote more than 1 MB to standard output" in error_of(record, "above")
    assert "shell_output_mb" in error_of(record, "above")


def test_the_log_has_characters_that_lie_across_the_borders_of_reads(
    runs: Runs, shell: Any
) -> None:
    lines = runs.log(shell("printf a; yes é | head -n 43700"), "command")

    assert lines == ["é"] * len(lines)
