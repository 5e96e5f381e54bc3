"""What the trigger rules say, in Python; the Lua that decides runs is proved equal to it."""

from __future__ import annotations

from collections.abc import Set

from orchestrator.ledger.states import StepState

BAD = frozenset({StepState.FAILED, StepState.UPSTREAM_FAILED, StepState.CANCELLED})


def verdict_of(rule: str, states: Set[StepState]) -> StepState:
    """Return what a waiting step must be by its rule, with its upstreams in these states: queued,
    waiting, skipped or upstream_failed."""
    has_bad = not states.isdisjoint(BAD)
    if has_bad and rule in ("all_success", "none_failed"):
        return StepState.UPSTREAM_FAILED
    if has_bad and rule == "one_failed":
        return StepState.QUEUED
    if not all(state.is_ended for state in states):
        return StepState.WAITING
    if rule == "one_failed" or (rule == "all_success" and StepState.SKIPPED in states):
        return StepState.SKIPPED
    return StepState.QUEUED
