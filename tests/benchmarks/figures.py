"""What the benchmark finds, as values: comparisons of both sides, and plain figures of ours."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from orchestrator.ledger.connection import connect


@dataclass(slots=True)
class Comparison:
    """One DAG on both sides; seconds of each repeat. `against` says how plain Celery runs the
    DAG."""

    name: str
    against: str
    steps: int
    events: bool
    target: float | None = None
    ours_s: list[float] = field(default_factory=list)
    plain_s: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float | None:
        """Median of ours ÷ median of plain Celery."""
        if not self.ours_s or not self.plain_s:
            return None
        return statistics.median(self.ours_s) / statistics.median(self.plain_s)


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value of ours."""

    name: str
    value: float
    unit: str
    target: float | None = None


def machine_facts(redis_url: str) -> dict[str, str | int]:
    """Return what the figures depend on."""
    server = connect(redis_url).info("server")
    revision = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=10"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "revision": revision.stdout.strip() or "unknown",
        "cores": (
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1
        ),
        "machine": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "celery": version("celery"),
        "kombu": version("kombu"),
        "redis-py": version("redis"),
        "server": (
            f"{server.get('server_name', 'redis')}"
            f" {server.get('valkey_version', server['redis_version'])}"
        ),
    }
