"""What a resume changes in the steps of its run."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.ledger.values import StagedStep


@dataclass(frozen=True, slots=True)
class StepChanges:
    """Steps that are `new`, those that are `rewired` (other upstreams, another trigger rule), and those with an attempt
    whose spec is replaced or taken away (`respecified`)."""

    new: Sequence[str] = ()
    rewired: Sequence[str] = ()
    respecified: Sequence[str] = ()


def step_changes(
    graphs: Mapping[str, str], specs: Mapping[str, str], tried: Collection[str], staged: Sequence[StagedStep]
) -> StepChanges:
    """Return how `staged`, every step of the run as it is to be, differs from the graphs and specs that the ledger has.

    `tried` are the steps with an attempt.
    """
    new, rewired, replaced = [], [], set(specs)
    for it in staged:
        if it.step not in graphs:
            new.append(it.step)
            continue
        graph, spec = graphs[it.step], specs[it.step]
        if it.spec == spec:
            replaced.discard(it.step)
        has_other_rule = it.graph != graph and json.loads(it.graph).get("t") != json.loads(graph).get("t")
        if has_other_rule or (it.spec != spec and _upstream_in(it.spec) != _upstream_in(spec)):
            rewired.append(it.step)
    return StepChanges(new, rewired, sorted(replaced.intersection(tried)))


def _upstream_in(spec: str) -> set[str]:
    return set(json.loads(spec).get("upstream", ()))
