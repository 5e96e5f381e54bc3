"""What `run`, `submit` and `plan` refuse that a pipeline alone cannot show."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import PipelineInvalid
from orchestrator.runs.loading import load_plan
from orchestrator.settings.model import Settings
from orchestrator.settings.pools import PoolSettings


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


def test_an_alert_that_nobody_could_send_is_a_fault_without_its_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "told.yaml"
    file.write_text(
        "alerts: ['json://localhost/$A_PATH', 'slak://secret', '$NOT_SET_HERE', 'secret',"
        " '$A_SECRET']\nsteps:\n  vain: {run: \"true\", timeout: 5, pool: io}\n"
    )
    monkeypatch.setenv("A_PATH", "secret")
    monkeypatch.setenv("A_SECRET", "discord://secret")
    settings = Settings(pools={"cpu": PoolSettings(), "io": PoolSettings(pool_type="threads")})

    with pytest.raises(PipelineInvalid) as caught:
        load_plan(str(file), [], settings)

    timeout, service, no_url, short = caught.value.faults
    assert "step 'vain' has a timeout" in timeout
    assert (
        service == "alerts[1], slak://***: Apprise knows no service 'slak'. Did you mean 'slack'?"
    )
    assert no_url == "alerts[3], ***: it is not an Apprise URL, as in 'slack://$TOKEN/#ml'."
    assert short.startswith("alerts[4], $A_SECRET: Apprise cannot use it: ")
    assert "secret" not in str(caught.value)
