"""How many CPU cores this process may use: those of its affinity, and no more than the quota of its
control groups."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_GROUPS = Path("/proc/self/cgroup")
_MOUNTED = Path("/sys/fs/cgroup")


def available_cores() -> int:
    """Return the cores that this process may use, at least 1; a part of a core in a quota does not
    count."""
    count = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    quota = quota_cores()
    return max(1, count if quota is None else min(count, int(quota)))


def quota_cores(groups: Path = _GROUPS, mounted: Path = _MOUNTED) -> float | None:
    """Return the cores that the control groups of this process allow it, None without a quota.

    `groups` is its /proc/self/cgroup, `mounted` where the hierarchies are: version 2 (`cpu.max`) or
    1 (`cpu.cfs_*`). The smallest quota of a group and all above it counts. In a container the path
    of the group is often that of the host, which is not there: then the top of what is mounted is
    the container's own group.
    """
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return None
    quotas = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            quotas += [_quota_v2(folder) for folder in _folders(mounted, path)]
        elif "cpu" in controllers.split(","):
            for top in (mounted / controllers, mounted / "cpu"):
                quotas += [_quota_v1(folder) for folder in _folders(top, path)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _folders(top: Path, path: str) -> Iterator[Path]:
    """Return the folder of a group and those of all above it."""
    folder = top / path.strip("/")
    while folder != top and top in folder.parents:
        yield folder
        folder = folder.parent
    yield top


def _quota_v2(folder: Path) -> float | None:
    with suppress(OSError, ValueError):
        quota, period = (folder / "cpu.max").read_text().split()
        return int(quota) / int(period)  # ValueError: "max"
    return None


def _quota_v1(folder: Path) -> float | None:
    with suppress(OSError, ValueError):
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        return quota / int((folder / "cpu.cfs_period_us").read_text()) if quota > 0 else None
    return None
