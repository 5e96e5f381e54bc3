"""What the server refuses for good is one sentence."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from orchestrator.ledger.ledger import Ledger


@pytest.mark.parametrize(
    ("command", "code"), [("runs", 2), ("show last", 2), ("cancel last", 2), ("doctor", 1)]
)
def test_a_key_of_another_kind_where_ours_should_be_is_told(
    ledger: Ledger, shared_redis_url: str, command: str, code: int
) -> None:
    ledger.client.set(f"{ledger.prefix}:runs", "taken")
    variables = {
        "ORCHESTRATOR_REDIS_URL": shared_redis_url,
        "ORCHESTRATOR_KEY_PREFIX": ledger.prefix,
    }

    done = subprocess.run(
        [sys.executable, "-c", "from orchestrator.cli.main import main; main()", *command.split()],
        env=os.environ | variables, capture_output=True, text=True, timeout=60,
    )  # fmt: skip

    told = [line for line in (done.stdout + done.stderr).splitlines() if "WRONGTYPE" in line]
    assert (done.returncode, len(told)) == (code, 1)
    assert "the Redis server at " in told[0]
    assert f"below '{ledger.prefix}:' (setting key_prefix)" in told[0]
    assert "Traceback" not in done.stderr
