"""What is taken out of a process's environment is seen by nobody, and all else stays where people
look for it."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

CODE = """
import sys
from orchestrator.secrecy import withdraw
withdraw({"A_SECRET"})
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is of Linux")
def test_a_withdrawn_variable_hides_no_other_one_from_who_looks_at_the_process() -> None:
    variables = {"BEFORE": "1", "A_SECRET": "top secret", "AFTER": "2"}
    command = [sys.executable, "-c", CODE]

    with subprocess.Popen(
        command,
        env=variables | os.environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        seen = psutil.Process(process.pid).environ()
        process.communicate("")

    assert {name: seen.get(name) for name in ("BEFORE", "AFTER")} == {"BEFORE": "1", "AFTER": "2"}
    assert "top secret" not in str(seen)
