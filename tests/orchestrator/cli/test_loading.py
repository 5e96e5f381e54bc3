"""What `run`, `submit` and `plan` refuse that a pipeline alone cannot show."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import PipelineInvalid
from orchestrator.cli.loading import load_plan
from orchestrator.settings import PoolSettings, Settings


def test_a_timeout_that_the_pool_could_not_keep_is_a_fault(tmp_path: Path) -> None:
    file = tmp_path / "timed.yaml"
    file.write_text(
        "steps:\n"
        '  free: {run: "true", pool: io}\n'
        '  kept: {run: "true", timeout: 5}\n'
        '  vain: {run: "true", timeout: 5, pool: io}\n'
    )
    settings = Settings(pools={"cpu": PoolSettings(), "io": PoolSettings(pool_type="threads")})

    with pytest.raises(PipelineInvalid) as caught:
        load_plan(str(file), [], settings)

    (fault,) = caught.value.faults
    assert "step 'vain' has a timeout, but pool 'io' is of type threads" in fault
