"""Random pipelines of chaos steps, and what a plain evaluation in this process says of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from chaos_steps import value_of, work
from oracle import final_states

from orchestrator import Pipeline, PipelineBuilder
from orchestrator.definition.model import TriggerRule

RETRIES = 2
MANY = 1000  # lost attempts that a step may have: chaos takes more than a user would stand


@dataclass(frozen=True)
class Tangle:
    """One pipeline: what each step waits for, by which rule, how often it fails on purpose (-1: always), its nap."""

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
                args=[step, [outputs[name] for name in upstream], str(folder), self.naps[step], self.failing[step]],
                kwargs={"child": step in self.has_child},
                retries=RETRIES,
                lost_attempts=MANY,
                trigger=self.rules[step],
            )
        return builder.build()

    def states(self) -> dict[str, str]:
        """Return how every step must end."""
        return final_states(self.upstream, self.rules, {step for step, times in self.failing.items() if times < 0})

    def outputs(self) -> dict[str, int]:
        """Return the output of every step that succeeds, computed here."""
        states, values = self.states(), dict[str, int]()
        for step, upstream in self.upstream.items():
            if states[step] == "succeeded":
                values[step] = value_of(step, [values.get(name) for name in upstream])
        return values


def tangle(rng: Random, max_steps: int = 9) -> Tangle:
    """Return a random one. Steps stand in topological order; about one pipeline in four holds one that always fails."""
    names = [f"s{number}" for number in range(rng.randint(2, max_steps))]
    density = rng.choice([0.2, 0.4, 0.7])
    others = rng.choice([0.0, 0.0, 0.3])
    doomed = rng.random() < 0.25
    failing = {name: rng.choice([0, 0, 0, 0, 1, RETRIES]) for name in names}
    if doomed:
        failing[rng.choice(names)] = -1
    upstream = {name: [u for u in names[:place] if rng.random() < density] for place, name in enumerate(names)}
    drawn = {name: rng.choice(list(TriggerRule)).value if rng.random() < others else "all_success" for name in names}
    return Tangle(
        upstream=upstream,
        rules={name: drawn[name] if upstream[name] else "all_success" for name in names},
        failing=failing,
        naps={name: rng.choice([0.0, 0.0, 0.01, 0.05, 0.3, 1.0]) for name in names},
        has_child={name for name in names if rng.random() < 0.15},
    )
