"""Random graphs, and runs of them in a real ledger."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from random import Random
from typing import Any

from orchestrator.attempt_id import AttemptId
from orchestrator.definition.options import StepOptions
from orchestrator.definition.pipeline import Pipeline, ShellCall, Step, TriggerRule
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.staging import broker_lists, staged_steps
from orchestrator.ledger.values import Chain, Ready, Reused
from orchestrator.plan.compile import compile_pipeline
from orchestrator.plan.plan import Plan
from orchestrator.settings.model import Settings
from orchestrator.settings.pools import PoolSettings

SETTINGS = Settings(pools={"cpu": PoolSettings(queue="cpu"), "gpu": PoolSettings(queue="cuda")})
RULES = tuple(TriggerRule)
INSTANT_S = 1e-6  # a time that is over when somebody looks
_numbers = count()


@dataclass(frozen=True)
class Graph:
    """Steps as the user listed them, each with upstreams and trigger rule; `options` has others
    than the defaults."""

    upstream: Mapping[str, tuple[str, ...]]
    rules: Mapping[str, str]
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def pipeline(self, name: str = "p") -> Pipeline:
        call = ShellCall("true")
        options = {rule: StepOptions(trigger=rule.value) for rule in RULES}
        steps = {
            step: Step(step, call, up, options[TriggerRule(self.rules[step])])
            for step, up in self.upstream.items()
        }
        for step, more in self.options.items():
            steps[step] = Step(
                step, call, self.upstream[step], StepOptions(trigger=self.rules[step], **more)
            )
        return Pipeline(name, steps)

    def plan(self) -> Plan:
        return compile_pipeline(self.pipeline())


class SaidTwice(Ledger):
    """A ledger whose every answer is lost once on its way, so that the client says everything
    again."""

    def _call(self, run_id: str, *args: Any) -> Any:
        super()._call(run_id, *args)
        return super()._call(run_id, *args)


def graph(
    upstream: Mapping[str, str | Iterable[str]],
    rules: Mapping[str, str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> Graph:
    """Return a graph from upstreams by step, as "a b" or a list, and the rules that are not
    all_success."""
    parents = {
        step: tuple(up.split() if isinstance(up, str) else up) for step, up in upstream.items()
    }
    return Graph(
        parents, {step: (rules or {}).get(step, "all_success") for step in parents}, options or {}
    )


def random_graph(
    rng: Random, max_steps: int, *, other_rules: float, options: bool = False
) -> Graph:
    """Return a graph of any shape in any listing order, redundant edges and several components
    among them.

    With `options` some steps wait for a worker no longer than an instant, may lose another number
    of attempts than the default, or have a priority.
    """
    names = [f"s{i}" for i in range(rng.randint(1, max_steps))]
    density = rng.choice([0.1, 0.25, 0.5, 0.9])
    upstream = {
        step: [u for u in names[:i] if rng.random() < density] for i, step in enumerate(names)
    }
    rules = {
        step: rng.choice(RULES).value if rng.random() < other_rules else "all_success"
        for step in names
    }
    rng.shuffle(names)
    chosen = {step: random_options(rng) for step in names} if options else {}
    return Graph({step: tuple(upstream[step]) for step in names}, rules, chosen)


def random_options(rng: Random) -> dict[str, Any]:
    options: dict[str, Any] = {"priority": rng.choice([0, 5, 5, 9])}
    if rng.random() < 0.15:
        options["queue_timeout"] = INSTANT_S
    if rng.random() < 0.5:
        options["lost_attempts"] = rng.randint(1, 4)
    return options


def start(
    ledger: Ledger,
    plan: Plan,
    *,
    max_links: int = 20,
    run_id: str | None = None,
    params: str = "{}",
    fields: Mapping[str, str | int] | None = None,
    reused: Mapping[str, Reused] | None = None,
) -> tuple[str, Ready]:
    """Put a run of the plan into the ledger as a submit does, but send nothing. Gives its id and
    its root chains.

    `reused` are steps that are taken over, without an output.
    """
    run_id = run_id or f"run-{next(_numbers)}"
    told = {
        "pipeline": plan.pipeline.name,
        "params": params,
        "import_path": "",
        "max_links": max_links,
    }
    told |= {"lists": json.dumps(broker_lists(plan, SETTINGS)), **(fields or {})}
    places = {
        step: f"{place} {it.attempt} {it.run_id}"
        for place, (step, it) in enumerate((reused or {}).items())
    }
    roots = [head for index in plan.roots if (head := plan.chains[index][0]) not in places]
    staged = (replace(it, reused=places.get(it.step, "")) for it in staged_steps(plan, SETTINGS))
    return run_id, ledger.start(run_id, staged, roots, told)


def all_ready(ledger: Ledger, run_id: str, ready: Ready) -> list[Chain]:
    """Go on with what stands in the front of a run until nothing does; return all chains."""
    chains = [*ready]
    while ready.has_more:
        ready = ledger.go_on(run_id)
        chains += ready
    return chains


def start_graph(
    ledger: Ledger,
    upstream: Mapping[str, str],
    rules: Mapping[str, str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    **fields: str | int,
) -> str:
    return start(ledger, graph(upstream, rules, options).plan(), fields=fields)[0]


def age(ledger: Ledger, run_id: str, age_us: int) -> None:
    """Let a run that has just been started be so much older."""
    client, events, states = (
        ledger.client,
        ledger.key(run_id, "events"),
        ledger.key(run_id, "state"),
    )
    for name in ("created_at", "ended_at"):
        if name in ledger.run_fields(run_id):
            client.hincrby(ledger.key(run_id, "run"), name, -age_us)
    entries = client.xrange(events)
    client.delete(events)
    for event_id, fields in entries:
        client.xadd(events, {**fields, "at": int(fields["at"]) - age_us}, event_id)
    for step, text in client.hgetall(states).items():
        state, attempt, token, at, holder = text.split(" ", 4)
        client.hset(states, step, f"{state} {attempt} {token} {int(at) - age_us} {holder}")


def begin(ledger: Ledger, run_id: str, step: str, attempt: int = 1, worker: str = "w") -> int:
    """Claim an attempt, which must be granted, and give its token."""
    claim = ledger.claim(AttemptId(run_id, step, attempt), f"{step}-{attempt}", worker)
    assert hasattr(claim, "token"), claim
    return claim.token


def states_of(ledger: Ledger, run_id: str) -> dict[str, str]:
    """Return the state of every step, listed order."""
    reached = ledger.states(run_id)
    return {
        step: str(reached[step][0]) if step in reached else "waiting"
        for step in ledger.entries(run_id)
    }


def run_state(ledger: Ledger, run_id: str) -> str:
    return ledger.run_fields(run_id)["state"]


def events_of(ledger: Ledger, run_id: str) -> list[tuple[str, str, int]]:
    return [(event.kind, event.step, event.attempt) for event in ledger.events(run_id)]


def heads(chains: Iterable[Chain]) -> list[str]:
    return [chain.links[0].step for chain in chains]


def counts_in(fields: Mapping[str, str]) -> dict[str, int]:
    """Return the counts that a run's hash keeps, those at zero left out."""
    return {
        name[2:]: int(value)
        for name, value in fields.items()
        if name.startswith("n:") and value != "0"
    }


def links_of(text: str) -> list[tuple[str, int]]:
    """Return step and attempt of the links of a chain as the script answers it."""
    return [(step, attempt) for step, attempt, *_ in json.loads(text)[1]]
