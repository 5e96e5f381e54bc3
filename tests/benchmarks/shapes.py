"""The DAGs that are measured, each as step -> upstreams."""

from __future__ import annotations

import gzip
import json
import os
import random
from dataclasses import dataclass
from pathlib import Path

from orchestrator.definition.pipeline import FunctionCall, Pipeline, Step

WORKFLOWS = Path(
    os.environ.get("WORKFLOWS_DIR") or Path(__file__).parents[3] / "shared" / "workflows"
)
NOOP = FunctionCall("noop_step:noop")


@dataclass(frozen=True, slots=True)
class Shape:
    """A DAG of no-op steps."""

    name: str
    upstream: dict[str, tuple[str, ...]]

    @property
    def steps(self) -> int:
        return len(self.upstream)

    def pipeline(self) -> Pipeline:
        return Pipeline(
            self.name,
            {step: Step(step, NOOP, upstream) for step, upstream in self.upstream.items()},
            import_path=str(Path(__file__).parent),
        )

    def levels(self) -> list[int]:
        """Return how many steps stand at each depth, which is what barriers can express."""
        depth: dict[str, int] = {}
        for start in self.upstream:
            stack = [start]
            while stack:
                step = stack[-1]
                missing = [parent for parent in self.upstream[step] if parent not in depth]
                if missing:
                    stack += missing
                else:
                    depth[stack.pop()] = 1 + max(
                        (depth[parent] for parent in self.upstream[step]), default=-1
                    )
        return [list(depth.values()).count(level) for level in range(max(depth.values()) + 1)]


def chain(length: int) -> Shape:
    steps = [f"s{number}" for number in range(length)]
    return Shape(
        f"chain-{length}",
        {
            step: tuple(steps[number - 1 : number]) if number else ()
            for number, step in enumerate(steps)
        },
    )


def fan(width: int) -> Shape:
    """Return `width` steps that wait for nothing and one that waits for all of them."""
    header = tuple(f"s{number}" for number in range(width))
    return Shape(f"fan-{width}", {**dict.fromkeys(header, ()), "join": header})


def layered(layers: int, width: int, parents: int = 3, seed: int = 7) -> Shape:
    """Return layers in which each step waits for `parents` random steps of the layer before."""
    choice = random.Random(seed)
    upstream: dict[str, tuple[str, ...]] = {}
    for layer in range(layers):
        above = [f"l{layer - 1}-{number}" for number in range(width)]
        for number in range(width):
            upstream[f"l{layer}-{number}"] = tuple(choice.sample(above, parents)) if layer else ()
    return Shape(f"layered-{layers}x{width}", upstream)


def workflow(name: str) -> Shape | None:
    """Return a real workflow of the folder WORKFLOWS with steps that take no time, None where it is
    absent."""
    for path in (WORKFLOWS / f"{name}.json", WORKFLOWS / f"{name}.json.gz"):
        if path.is_file():
            data = path.read_bytes()
            text = gzip.decompress(data) if path.suffix == ".gz" else data
            return Shape(
                name, {step["id"]: tuple(step["upstream"]) for step in json.loads(text)["steps"]}
            )
    return None
