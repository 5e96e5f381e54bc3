"""Runs that were submitted and resumed, for the tests of what one can do to a run."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from orchestrator.plan.plan import Plan
from orchestrator.runs.resumption import Resumption, plan_resume
from orchestrator.runs.stored import read_run
from orchestrator.runs.submission import submit
from orchestrator.settings.model import Settings
from tests.support.resumptions import end


@pytest.fixture
def submitted(ledger, app, chosen):
    """Submit a plan; then end steps of it: those that are named in order, "!" behind a name lets it
    fail."""

    def run(plan: Plan, ending: str, target: str = "") -> str:
        run_id = submit(plan, ledger, app, chosen, target=target)
        end(ledger, run_id, ending)
        return run_id

    return run


@pytest.fixture
def planned(ledger, app, chosen) -> Callable[..., Resumption]:
    def make(
        run_id: str, plan: Plan, *from_steps: str, settings: Settings | None = None
    ) -> Resumption:
        return plan_resume(read_run(ledger, run_id), plan, settings or chosen, from_steps)

    return make
