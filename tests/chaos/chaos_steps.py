"""The steps of the chaos runs: what they give depends on their inputs alone, and each leaves a
trace of every attempt.

The trace of a step is a file: a line with the attempt's token when its work is done, another when
it fails on purpose.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from pathlib import Path

from orchestrator import context


class OnPurpose(Exception):
    """The failure that the pipeline's maker has written into a step."""


def work(
    name: str, inputs: list[int | None], folder: str, nap_s: float, failing: int, *, child: bool
) -> int:
    """Nap, fail the first `failing` times that it gets this far (-1: always), then give a number
    made of the inputs."""
    trace = Path(folder, name)
    if child:
        subprocess.run(["sleep", str(nap_s)], check=True)
    else:
        time.sleep(nap_s)
    failed = trace.read_text().count("failed\n") if trace.exists() else 0
    if failing < 0 or failed < failing:
        _append(trace, "failed")
        raise OnPurpose(name)
    _append(trace, f"done {context.token if context.is_active else 0}")
    return value_of(name, inputs)


def value_of(name: str, inputs: list[int | None]) -> int:
    """Return the number that a step makes of its inputs; an upstream that failed gives None."""
    return int.from_bytes(hashlib.sha256(repr((name, inputs)).encode()).digest()[:6], "big")


def _append(path: Path, line: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)
