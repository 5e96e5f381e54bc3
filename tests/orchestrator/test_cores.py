"""A process counts the cores that it may use: affinity and every quota above it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cores import available_cores, quota_cores

# (lines of /proc/self/cgroup, files below the mount, cores)
CASES = {
    "version 2": ("0::/pod\n", {"pod/cpu.max": "150000 100000"}, 1.5),
    "version 2 without a quota": ("0::/pod\n", {"pod/cpu.max": "max 100000"}, None),
    "version 2, the parent's is smaller": (
        "0::/a/b\n",
        {"a/b/cpu.max": "400000 100000", "a/cpu.max": "200000 100000"},
        2,
    ),
    "version 2 in a container": ("0::/\n", {"cpu.max": "300000 100000"}, 3),
    "version 2 in a container that sees the host's path": (
        "0::/host/x\n",
        {"cpu.max": "300000 100000"},
        3,
    ),
    "version 1": (
        "4:cpu,cpuacct:/pod\n",
        {
            "cpu,cpuacct/pod/cpu.cfs_quota_us": "250000",
            "cpu,cpuacct/pod/cpu.cfs_period_us": "100000",
        },
        2.5,
    ),
    "version 1, mounted alone": (
        "1:cpu:/p\n",
        {"cpu/p/cpu.cfs_quota_us": "50000", "cpu/p/cpu.cfs_period_us": "100000"},
        0.5,
    ),
    "version 1 without a quota": (
        "1:cpu:/\n",
        {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
        None,
    ),
    "version 1 in a container that sees the host's path": (
        "5:cpuset:/\n4:cpu,cpuacct:/docker/1\n",
        {"cpu,cpuacct/cpu.cfs_quota_us": "100000", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
        1,
    ),
    "nonsense": ("0::/\n", {"cpu.max": "?"}, None),
    "no control groups": ("", {}, None),
}


@pytest.mark.parametrize("case", CASES)
def test_the_smallest_quota_of_the_groups_counts(tmp_path, case):
    lines, files, cores = CASES[case]
    (tmp_path / "cgroup").write_text(lines)
    for name, text in files.items():
        path = tmp_path / "mounted" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")

    assert quota_cores(tmp_path / "cgroup", tmp_path / "mounted") == cores


def test_nothing_to_read_is_no_quota(tmp_path):
    assert quota_cores(tmp_path / "missing", tmp_path) is None


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_affinity_counts():
    script = (
        "import os; from orchestrator.cores import available_cores;from orchestrator.settings.model"
        " import PoolSettings;os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]);"
        " print(available_cores(), PoolSettings().slots)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    assert done.stdout.split() == ["1", "1"], done.stderr


def test_a_real_quota_counts():
    group = Path("/sys/fs/cgroup/cpu/cores-of-a-test")
    try:
        group.mkdir()
    except OSError:
        pytest.skip("no control group of version 1 can be made here")
    try:
        (group / "cpu.cfs_quota_us").write_text("100000")
        (group / "cpu.cfs_period_us").write_text("100000")
        script = (
            f"import os; open('{group}/cgroup.procs', 'w').write(str(os.getpid()));"
            "from orchestrator.cores import available_cores; print(available_cores())"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    finally:
        group.rmdir()

    assert done.stdout.strip() == "1", done.stderr


def test_there_is_always_a_core():
    assert available_cores() >= 1
