"""Putting a compiled pipeline into the ledger and sending off its roots."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime

from celery import Celery

from orchestrator.definition.code import code_id, code_of, code_text
from orchestrator.definition.params import params_text, secrets_in
from orchestrator.definition.pipeline import Pipeline
from orchestrator.ledger.entries import json_text
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.staging import broker_lists, staged_steps
from orchestrator.ledger.values import Link
from orchestrator.messages.dispatch import Dispatcher
from orchestrator.messages.sizes import largest_message_bytes, links_per_message
from orchestrator.plan.plan import Plan
from orchestrator.settings.model import Settings

RUN_ID_SHAPE = "20261123-175235-0123456789"


def new_run_id() -> str:
    """Return an id that sorts by time and that nobody else has: date, time (UTC) and 40 random
    bits."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(5)}"


def submit(
    plan: Plan,
    ledger: Ledger,
    app: Celery,
    settings: Settings,
    run_id: str | None = None,
    target: str = "",
    labels: Mapping[str, str] | None = None,
) -> str:
    """Start a run of the plan and give its id. The run is in the ledger, whole, before its first
    message is sent.

    `target` is where a later resume finds the pipeline again: an absolute FILE[:NAME], or a
    module. `labels` are for people to find the run by, beside those of the settings.
    """
    run_id = run_id or new_run_id()
    fields = run_fields(plan, settings, run_id, target)
    if labels := {**settings.labels, **(labels or {})}:
        fields["labels"] = json_text(labels)
    roots = [plan.chains[index][0] for index in plan.roots]
    chains = ledger.start(run_id, staged_steps(plan, settings), roots, fields)
    Dispatcher(app, ledger).send(run_id, chains)
    return run_id


def run_fields(
    plan: Plan, settings: Settings, run_id: str, target: str, attempts_before: int = 0
) -> dict[str, str | int]:
    """Return what the ledger keeps of a run as a whole. `attempts_before` are the most that a step
    of it has had."""
    pipeline = plan.pipeline
    fields: dict[str, str | int] = {
        "pipeline": pipeline.name,
        "params": params_text(pipeline.params),
        "import_path": pipeline.import_path or "",
        "max_links": _max_links(plan, settings, run_id, attempts_before),
        "lists": json_text(broker_lists(plan, settings)),
        "code": code_text(code := code_of(pipeline)),
        "code_id": code_id(code),
    }
    if secret_values := secrets_in(pipeline.params):
        fields["secrets"] = json_text(sorted(secret_values))
        # the ledger keeps these apart, until the run ends
        fields["secret_values"] = json.dumps(secret_values)
    if target:
        fields["target"] = target
    if pipeline.deadline_s or any(step.options.queue_timeout for step in pipeline.steps.values()):
        fields["limits"] = 1
    if pipeline.deadline_s:
        # 30 days are 2592000, not 2.592e+06
        whole = pipeline.deadline_s.is_integer() and pipeline.deadline_s < 1e15
        fields["deadline_s"] = f"{pipeline.deadline_s:.0f}" if whole else repr(pipeline.deadline_s)
    if pipeline.alerts:
        fields["alerts"] = json_text(list(pipeline.alerts))
    return fields


def plan_links(plan: Plan, settings: Settings) -> dict[str, Link]:
    """Return the link of every step as its first attempt is sent."""
    return {name: _link(plan.pipeline, name, settings) for name in plan.pipeline.steps}


def plan_message_bytes(plan: Plan, settings: Settings) -> int:
    """Return the size of the largest message that a run of the plan can send."""
    if not plan.chains:
        return 0
    links = plan_links(plan, settings)
    chains = [tuple(links[step] for step in steps) for steps in plan.chains]
    max_links = _max_links(plan, settings, RUN_ID_SHAPE)
    return largest_message_bytes(RUN_ID_SHAPE, plan.pipeline.name, chains, max_links)


def _max_links(plan: Plan, settings: Settings, run_id: str, attempts_before: int = 0) -> int:
    # Attempts as they may become, so that a late retry's message is not larger than a first one's
    # may be.
    links = [
        link._replace(attempt=1 + attempts_before + plan.pipeline.steps[name].options.retries)
        for name, link in plan_links(plan, settings).items()
    ]
    return links_per_message(plan.pipeline.name, links, run_id)


def _link(pipeline: Pipeline, name: str, settings: Settings) -> Link:
    options = pipeline.steps[name].options
    pool = options.pool or settings.default_pool
    return Link(name, 1, settings.queue_of(pool), options.priority, options.timeout or 0)
