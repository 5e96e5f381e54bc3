"""Random pipelines of chaos steps, and what a plain evaluation in this process says of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from random import Random

from orchestrator import Pipeline, PipelineBuilder
from orchestrator.definition.pipeline import TriggerRule
from tests.chaos.chaos_steps import value_of, work
from tests.support.rules import final_states

RETRIES = 2
MANY = 1000  # lost attempts that a step may have: chaos takes more than a user would stand


@dataclass(frozen=True)
class Tangle:
    """One pipeline: what each step waits for, by which rule, how often it fails on purpose (-1:
    always), its nap."""

    upstream: dict[str, list[str]]
    rules: dict[str, str]
    failing: dict[str, int]
    naps: dict[str, float]
    has_child: set[str] = field(default_factory=set)

    def pipeline(self, folder: Path) -> Pipeline:
        """Return it as a pipeline whose steps leave their traces in `folder`."""
        folder.mkdir(parents=True)
        builder = PipelineBuilder("tangle", defaults={"retry_delay": 0.05, "retry_max_delay": 0.1})
        outputs = {}
        for step, upstream in self.upstream.items():
            outputs[step] = builder.add(
                step,
                work,
                args=[
                    step,
                    [outputs[name] for name in upstream],
                    str(folder),
                    self.naps[step],
                    self.failing[step],
                ],
                kwargs={"child": step in self.has_child},
                retries=RETRIES,
                lost_attempts=MANY,
                trigger=self.rules[step],
            )
        return builder.build()

    def states(self) -> dict[str, str]:
        """Return how every step must end."""
        return final_states(
            self.upstream, self.rules, {step for step, times in self.failing.items() if times < 0}
        )

    def wrong_outputs(self, given: dict[str, int]) -> list[str]:
        """Return a sentence for each output that is not what its step makes of the outputs that it
        waited for.

        A step with the rule `one_failed` starts at the first failure: of its other upstreams it may
        know any.
        """
        states = self.states()
        succeeded = {step for step in self.upstream if states[step] == "succeeded"}
        if given.keys() != succeeded:
            return [f"there are outputs of {sorted(given)}, but {sorted(succeeded)} succeed"]
        wrong = []
        for step in succeeded:
            inputs = [given.get(name) for name in self.upstream[step]]
            known = [
                {value, None} if self.rules[step] == "one_failed" else {value} for value in inputs
            ]
            if given[step] not in {value_of(step, list(values)) for values in product(*known)}:
                wrong.append(f"step {step} gave {given[step]} for {inputs}")
        return wrong


def tangle(rng: Random, max_steps: int = 9) -> Tangle:
    """Return a random one. Steps stand in topological order; about one pipeline in four holds one
    that always fails."""
    names = [f"s{number}" for number in range(rng.randint(2, max_steps))]
    density = rng.choice([0.2, 0.4, 0.7])
    others = rng.choice([0.0, 0.0, 0.3])
    doomed = rng.random() < 0.25
    failing = {name: rng.choice([0, 0, 0, 0, 1, RETRIES]) for name in names}
    if doomed:
        failing[rng.choice(names)] = -1
    upstream = {
        name: [u for u in names[:place] if rng.random() < density]
        for place, name in enumerate(names)
    }
    drawn = {
        name: rng.choice(list(TriggerRule)).value if rng.random() < others else "all_success"
        for name in names
    }
    return Tangle(
        upstream=upstream,
        rules={name: drawn[name] if upstream[name] else "all_success" for name in names},
        failing=failing,
        naps={name: rng.choice([0.0, 0.0, 0.01, 0.05, 0.3, 1.0]) for name in names},
        has_child={name for name in names if rng.random() < 0.15},
    )
