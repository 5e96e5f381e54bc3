"""A run as the ledger keeps it, and the pipeline that can be read back from it when its file is
gone."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from orchestrator.definition.options import StepOptions
from orchestrator.definition.params import Param, ReadParams, inferred_param, params_of_record
from orchestrator.definition.pipeline import FunctionCall, ParamRef, Pipeline, ShellCall, Step
from orchestrator.definition.secrets import Secret
from orchestrator.definition.wire import from_wire, references
from orchestrator.errors import PipelineInvalid, names_hint
from orchestrator.ledger.entries import CallKind, StepEntry, StepSpec
from orchestrator.ledger.events import EventKind
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.past import Past
from orchestrator.ledger.staging import values_of
from orchestrator.ledger.states import RunState, StepState
from orchestrator.ledger.values import StagedStep


@dataclass(frozen=True)
class StoredRun:
    """A run's fields, steps and their states (state, attempts so far), and the id of its latest
    event."""

    run_id: str
    fields: Mapping[str, str]
    steps: Mapping[str, StagedStep]
    states: Mapping[str, tuple[StepState, int]]
    last_event: str
    past: Past = field(default_factory=Past)
    # step -> resumes before its last attempt; 0 if absent
    begun_after: Mapping[str, int] = field(default_factory=dict)

    @property
    def state(self) -> RunState:
        return RunState(self.fields["state"])

    @property
    def target(self) -> str:
        """Where the pipeline was loaded from; empty when nobody said."""
        return self.fields.get("target", "")

    def unknown_steps(self, names: Iterable[str], steps: Collection[str]) -> str:
        """Return a sentence for each name that is not a step of the pipeline as it is now
        (`steps`)."""
        sentences = []
        for name in dict.fromkeys(names):
            if name in self.steps and name not in steps:
                sentences.append(
                    f"step {name!r} of run {self.run_id} is not in the pipeline any more."
                )
            elif name not in steps:
                sentences.append(
                    f"run {self.run_id} has no step {name!r}.{names_hint(name, steps)}"
                )
        return " ".join(sentences)

    @property
    def resumes(self) -> int:
        return int(self.fields.get("resumes", 0))

    def ran_as(self, now: StagedStep) -> bool:
        """Return whether the last attempt of a step had, to the letter, the spec that it would have
        now."""
        return self.past.spec_at(now.step, self.begun_after.get(now.step, 0)) is None and (
            self.steps[now.step].spec == now.spec
        )

    def spec_of_success(self, step: str) -> StepSpec:
        """Return the spec that the last attempt of a step was given."""
        return (
            self.past.spec_at(step, self.begun_after.get(step, 0)) or self.steps[step].parsed_spec
        )

    def params_of_success(self, step: str) -> str:
        """Return the params, as JSON text, that the last attempt of a step was given."""
        params = self.past.params_at(self.begun_after.get(step, 0))
        return self.fields["params"] if params is None else json.dumps(params)

    @cached_property
    def params(self) -> ReadParams:
        """The params as they were when the run was submitted or last resumed; `Unkept` where none
        can be made again."""
        return params_of_record(self.fields["params"], self.secrets)

    @property
    def secrets(self) -> list[str]:
        """The params whose values were secret: of those nothing is kept."""
        names: list[str] = json.loads(self.fields.get("secrets") or "[]")
        return names

    @cached_property
    def code(self) -> dict[str, str]:
        """Source files with their SHA-256, as they were when the run was submitted or last
        resumed."""
        code: dict[str, str] = json.loads(self.fields.get("code") or "{}")
        return code


def read_run(ledger: Ledger, run_id: str) -> StoredRun:
    """Return a run as the ledger has it. Raises RunUnknown."""
    # first: that it says how often the run was resumed keeps the rest together
    fields = ledger.run_fields(run_id)
    begun_after: dict[str, int] = {}
    if int(fields.get("resumes", 0)):
        resumes = 0
        for event in ledger.events(run_id):
            if event.kind is EventKind.RUN_RESUMED:
                resumes += 1
            elif event.kind is EventKind.STEP_STARTED:
                begun_after[event.step] = resumes
    return StoredRun(
        run_id,
        fields,
        ledger.staged(run_id),
        ledger.states(run_id),
        ledger.last_event_id(run_id),
        ledger.past(run_id),
        begun_after,
    )


@dataclass(frozen=True)
class StoredDefinition:
    """The pipeline of a run, read back from the ledger.

    Of its params only those that a step reads by reference can be given another value: all others
    are no longer told apart from the values that the pipeline made of them.
    """

    run: StoredRun

    @property
    def name(self) -> str:
        return self.run.fields["pipeline"]

    @property
    def description(self) -> str:
        return ""

    @cached_property
    def params(self) -> Mapping[str, Param]:
        read = {
            reference.param
            for step in self.pipeline.steps.values()
            for reference in references(values_of(step))
            if isinstance(reference, ParamRef)
        }
        return {
            name: (
                Param(name, Secret[str])
                if name in self.run.secrets
                else inferred_param(name, value)
            )
            for name, value in self.run.params.items()
            if name in read
        }

    @cached_property
    def pipeline(self) -> Pipeline:
        fields = self.run.fields
        entries = {name: step.entry for name, step in self.run.steps.items()}
        names = sorted(entries, key=lambda name: entries[name].place)
        deadline = fields.get("deadline_s")
        return Pipeline(
            self.name,
            {name: _step(name, entries[name], self.run.steps[name].parsed_spec) for name in names},
            self.run.params,
            import_path=fields["import_path"] or None,
            deadline_s=float(deadline) if deadline else None,
            alerts=tuple(json.loads(fields.get("alerts") or "[]")),
        )

    def build(
        self, params: Mapping[str, Any] | None = None, *, pools: Collection[str] | None = None
    ) -> Pipeline:
        """Return the pipeline with these params in place of the recorded ones; raises
        PipelineInvalid."""
        faults = [
            f"step {name!r} is for pool {step.options.pool!r}, which is not among the settings any"
            f" more.{names_hint(step.options.pool, pools)}"
            for name, step in self.pipeline.steps.items()
            if pools is not None
            and step.options.pool is not None
            and step.options.pool not in pools
        ]
        if faults:
            raise PipelineInvalid(self.name, faults)
        return replace(self.pipeline, params={**self.run.params, **(params or {})})


def _step(name: str, entry: StepEntry, spec: StepSpec) -> Step:
    call: FunctionCall | ShellCall
    if spec.kind is CallKind.SHELL:
        call = ShellCall(from_wire(spec.command))
    else:
        args = from_wire(list(spec.args), is_lenient=True)
        call = FunctionCall(spec.uses, tuple(args), from_wire(dict(spec.kwargs), is_lenient=True))
    elsewhere = {"pool": spec.pool, "priority": entry.priority, "trigger": entry.trigger}
    options = StepOptions.model_validate({**spec.options, **elsewhere})
    return Step(name, call, tuple(spec.upstream), options)
