"""What a resume changes in the steps of its run."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.ledger.entries import StepEntry, StepSpec
from orchestrator.ledger.values import StagedStep


@dataclass(frozen=True, slots=True)
class StepChanges:
    """Steps that are `new`, those that are `rewired` (other upstreams, another trigger rule), and
    those with an attempt whose spec is replaced or taken away (`respecified`)."""

    new: Sequence[str] = ()
    rewired: Sequence[str] = ()
    respecified: Sequence[str] = ()


def step_changes(
    graphs: Mapping[str, str],
    specs: Mapping[str, str],
    tried: Collection[str],
    staged: Sequence[StagedStep],
) -> StepChanges:
    """Return how `staged`, every step of the run as it is to be, differs from the graphs and specs
    that the ledger has.

    `tried` are the steps with an attempt.
    """
    new, rewired, replaced = [], [], set(specs)
    for step in staged:
        if step.step not in graphs:
            new.append(step.step)
            continue
        graph, spec = graphs[step.step], specs[step.step]
        if step.spec == spec:
            replaced.discard(step.step)
        has_other_rule = (
            step.graph != graph and step.entry.trigger != StepEntry.from_json(graph).trigger
        )
        if has_other_rule or (
            step.spec != spec and set(step.parsed_spec.upstream) != _upstream_in(spec)
        ):
            rewired.append(step.step)
    return StepChanges(new, rewired, sorted(replaced.intersection(tried)))


def _upstream_in(spec: str) -> set[str]:
    return set(StepSpec.from_json(spec).upstream)
