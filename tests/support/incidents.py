"""Runs that fail in a real ledger, and the rounds of a coordinator that tells of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

from orchestrator.alerts.delivery import AlertDelivery, Pace
from orchestrator.attempt_id import AttemptId
from orchestrator.definition.builder import PipelineBuilder
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.staging import broker_lists, staged_steps
from orchestrator.ledger.states import Outcome
from orchestrator.ledger.values import Claim
from orchestrator.plan.compile import compile_pipeline
from orchestrator.settings.model import Settings

QUICK = Pace(send_within_s=10, lease_s=20, retries_s=(0.02, 0.02, 0.02))
ERROR = {"type": "my.code:Broken", "message": "never works\nnot at all", "traceback": "…"}
_numbers = count()


@dataclass(frozen=True)
class Incidents:
    """Runs of `train` and, below it, `report`."""

    ledger: Ledger
    wait_until: Callable[..., None]

    def submit(
        self, *alerts: str, steps: Mapping[str, str] | None = None, deadline: float | None = None
    ) -> str:
        """Start a run of a pipeline with these alerts and give its id. `steps` are needs by
        step."""
        builder = PipelineBuilder("churn", deadline=deadline, alerts=alerts)
        for step, needs in (steps or {"train": "", "report": "train"}).items():
            builder.add(step, run="true", needs=needs.split())
        plan, settings, run_id = (
            compile_pipeline(builder.build()),
            Settings(),
            f"churn-{next(_numbers)}",
        )
        fields: dict[str, str | int] = {
            "pipeline": "churn",
            "params": "{}",
            "import_path": "",
            "max_links": 9,
        }
        fields |= {"lists": json.dumps(broker_lists(plan, settings)), "alerts": json.dumps(alerts)}
        if deadline:
            fields["deadline_s"] = f"{deadline:g}"
        roots = [plan.chains[root][0] for root in plan.roots]
        self.ledger.start(run_id, staged_steps(plan, settings), roots, fields)
        return run_id

    def begin(self, run_id: str, step: str = "train", attempt: int = 1, lease_s: float = 60) -> int:
        """Claim an attempt, write its log, and give its token."""
        claim = self.ledger.claim(
            AttemptId(run_id, step, attempt), f"1.7.{attempt}", "gpu@host", lease_s
        )
        assert isinstance(claim, Claim), claim
        lines = [f"{step} {attempt} line {number}" for number in range(30)]
        self.ledger.append_log(AttemptId(run_id, step, attempt), claim.token, lines, 100)
        return claim.token

    def fail(
        self, run_id: str, step: str = "train", attempt: int = 1, error: Mapping[str, Any] = ERROR
    ) -> None:
        """Let an attempt fail, which is its step's last."""
        token = self.begin(run_id, step, attempt)
        self.ledger.commit(
            AttemptId(run_id, step, attempt),
            token,
            "gpu@host",
            Outcome.FAILED,
            detail={"error": error},
        )

    def failed(self, *alerts: str) -> str:
        """Return the id of a run that has failed."""
        run_id = self.submit(*alerts)
        self.fail(run_id)
        return run_id

    def delivery(self, *alerts: str, pace: Pace = QUICK) -> AlertDelivery:
        """Return what tells people, with targets in its settings."""
        delivery = AlertDelivery(self.ledger, Settings(alerts=alerts))
        delivery.pace = pace
        return delivery

    def offer(self, delivery: AlertDelivery, run_id: str) -> None:
        """Do what a coordinator's round does."""
        report = self.ledger.advance_due(run_id)
        if report.alert_at_us is not None:
            delivery.offer(run_id, report.alert_at_us, report.now_us)

    def tell(self, run_id: str, delivery: AlertDelivery | None = None) -> None:
        """Go round until there is nothing more to tell."""
        teller = delivery or self.delivery()

        def is_over() -> bool:
            self.offer(teller, run_id)
            return teller.finish(0) and self.is_told(run_id)

        self.wait_until(is_over)

    def is_told(self, run_id: str) -> bool:
        """Whether the ledger has nothing more to tell."""
        return self.ledger.advance_due(run_id).alert_at_us is None

    def events(self, run_id: str) -> list[tuple[str, dict[str, Any]]]:
        """Return what the record says of telling people."""
        return [
            (event.kind, event.fields)
            for event in self.ledger.events(run_id)
            if event.kind[:6] == "alert."
        ]
