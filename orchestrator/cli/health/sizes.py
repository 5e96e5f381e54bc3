"""Checks of sizes: those of runs in Redis and of artifacts on disk, and whether either is about to
be full.

Bounded, so that neither a large server nor a large folder is held up: the newest runs, by samples;
the first files.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from redis.exceptions import NoPermissionError, ResponseError

from orchestrator.cli.health.finding import Finding
from orchestrator.installation import Installation
from orchestrator.runs.deleting import deletable, ended_runs
from orchestrator.runs.finding import RunFilter
from orchestrator.settings.model import Settings
from orchestrator.wording import counted, size_text

RUNS_MEASURED = 20
OLD_DAYS = 30
OLD_MEASURED = 200
SAMPLES = 5  # of the entries of a key, by which the server estimates the rest
FILES_COUNTED = 10_000
FULL_SHARE = 0.9
NEARLY_SHARE = 0.8


def check_memory(installation: Installation) -> Iterator[Finding]:
    """Compare the server's memory with its limit, or with that of its machine where it has none."""
    info = installation.ledger.client.info()
    used, limit = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    if 0 < limit <= used:
        yield Finding(
            "fault",
            "memory",
            "full: the server takes no writes. Raise maxmemory, or delete old runs.",
        )
        return
    if limit:
        of, advice = (
            "of its maxmemory",
            "Raise maxmemory, or delete old runs, before it takes no more writes.",
        )
    else:
        limit, of = int(info.get("total_system_memory", 0)), "of its machine's memory"
        advice = "It has no maxmemory, so its machine may end it. Delete old runs, or give it more."
    if not limit:
        return
    text = f"{size_text(used)} in use, {used / limit:.0%} {of} ({size_text(limit)})"
    if used >= NEARLY_SHARE * limit:
        yield Finding("warning", "memory", f"{text}. {advice}")
    else:
        yield Finding("ok", "memory", text)


def check_run_sizes(installation: Installation) -> Iterator[Finding]:
    """Say how much the newest runs take in Redis."""
    ledger = installation.ledger
    kept = ledger.count_runs()
    if not kept:
        return
    run_ids = ledger.recent_runs(RUNS_MEASURED)
    try:
        sizes = {run_id: ledger.bytes_of(run_id, SAMPLES) for run_id in run_ids}
    except (ResponseError, NoPermissionError) as error:
        yield Finding(
            "ok", "runs", f"{kept:,} kept; the server does not say how large they are ({error})"
        )
        return
    largest = max(sizes, key=lambda run_id: sizes[run_id])
    shown = "they take" if kept == len(run_ids) else f"the newest {len(run_ids)} take"
    total, most = size_text(sum(sizes.values())), size_text(sizes[largest])
    yield Finding(
        "ok",
        "runs",
        f"{kept:,} kept, {shown} {total} in Redis without logs; the largest is {largest}: {most}",
    )


def check_old_runs(installation: Installation) -> Iterator[Finding]:
    """Say how many runs ended long ago, and which deletions were interrupted."""
    ledger = installation.ledger
    if interrupted := ledger.deletions():
        yield Finding(
            "warning",
            "deletions",
            f"{counted(len(interrupted), 'deletion')} of runs began and did not end. The next"
            " orchestrator delete --yes finishes them, and so does a coordinator.",
        )
    before_us = ledger.now_us() - OLD_DAYS * 86_400 * 1_000_000
    old = list(islice(ended_runs(ledger, RunFilter(), before_us), OLD_MEASURED + 1))
    if old:
        measured = [run for run in deletable(installation, old[:OLD_MEASURED]) if not run.refusal]
        redis = size_text(sum(run.redis_bytes for run in measured))
        artifacts = size_text(sum(run.artifact_bytes for run in measured))
        least = "at least " if len(old) > OLD_MEASURED else ""
        yield Finding(
            "ok",
            "old runs",
            f"{least}{counted(len(measured), 'run')} that ended more than {OLD_DAYS} days ago could"
            f" be deleted, which frees {redis} in Redis and {artifacts} of artifacts: orchestrator"
            f" delete --older-than {OLD_DAYS}d",
        )


def check_disk(settings: Settings) -> Iterator[Finding]:
    """Say how large the artifacts are, and whether the disk below them is about to be full."""
    root = settings.artifact_root
    if not root.is_dir():
        return
    size, count, is_all = _measured(root)
    more = "" if is_all else " and more"
    with suppress(OSError):
        usage = shutil.disk_usage(root)
        if usage.used + usage.free:
            share = usage.used / (usage.used + usage.free)  # of what this user may fill
            text = (
                f"{size_text(size)} in {count:,} files{more}, disk {share:.0%} full,"
                f" {size_text(usage.free)} free"
            )
            if share >= FULL_SHARE:
                yield Finding(
                    "warning", "artifact disk", f"{text}. Make room: steps wait once it is full."
                )
            else:
                yield Finding("ok", "artifact disk", text)


def _measured(root: Path) -> tuple[int, int, bool]:
    """Return size and number of the files of a folder, and whether these are all."""
    size = count = 0
    ahead = [os.fspath(root)]
    while ahead:
        try:
            entries: Any = os.scandir(ahead.pop())
        except OSError:
            continue
        with entries:
            for entry in entries:
                if count >= FILES_COUNTED:
                    return size, count, False
                with suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        ahead.append(entry.path)
                    else:
                        size, count = size + entry.stat(follow_symlinks=False).st_size, count + 1
    return size, count, True
