"""A short chaos run; `make chaos` has the long ones. A failing seed is named by its parameter and
by the report."""

from __future__ import annotations

import pytest

from orchestrator.local.server import embedded_server
from tests.chaos.chaos import Chaos


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [11, pytest.param(12, marks=pytest.mark.long)])
def test_whatever_happens_to_workers_and_messages_every_run_ends_as_it_must(seed, tmp_path):
    with embedded_server(
        tmp_path / "server"
    ) as url:  # its own: all connections are cut now and then
        chaos = Chaos(seed, 18, tmp_path, url, within_s=90)
        chaos.run()

    print(chaos.report())
    assert chaos.violations == []
    assert sum(chaos.harm.values()) >= 10
    assert chaos.events["attempt.lost"] + chaos.events["message.lost"] > 0
