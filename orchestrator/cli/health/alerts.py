"""Checks of the alert targets."""

from __future__ import annotations

import os
from collections.abc import Iterator

from orchestrator.alerts.targets import AlertTarget, read_targets
from orchestrator.cli.health.finding import Finding
from orchestrator.settings.model import Settings


def check_alert_targets(settings: Settings) -> Iterator[Finding]:
    targets = targets_of(settings)
    for target in targets:
        if target.fault:
            yield Finding("warning", "alerts", f"{target.label}: {target.fault}")
    if good := [target.label for target in targets if not target.fault]:
        yield Finding(
            "ok",
            "alerts",
            f"{len(good)} of {len(targets)} targets can be notified: {', '.join(good)}",
        )
    elif not targets:
        yield Finding(
            "ok",
            "alerts",
            "no target is set: nobody is notified when a run fails, but by its pipeline's own",
        )


def targets_of(settings: Settings) -> list[AlertTarget]:
    return read_targets(settings.alerts, os.environ)
