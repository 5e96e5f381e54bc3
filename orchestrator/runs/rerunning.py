"""A new run that takes over what another one has computed, and runs the rest: what is taken over,
and from where."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from celery import Celery

from orchestrator.artifacts.reference import Artifact
from orchestrator.definition.code import code_id, code_of, code_text
from orchestrator.definition.pipeline import Step
from orchestrator.errors import RerunRefused
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.staging import staged_steps
from orchestrator.ledger.states import StepState
from orchestrator.ledger.values import Reused, StagedStep
from orchestrator.messages.dispatch import Dispatcher
from orchestrator.plan.plan import Plan
from orchestrator.runs.differences import (
    code_now,
    is_other_call,
    missing_artifacts,
    params_that_changed,
    state_of,
    with_descendants,
)
from orchestrator.runs.stored import StoredRun
from orchestrator.runs.submission import run_fields
from orchestrator.settings.model import Settings


@dataclass(frozen=True)
class Finished:
    """What a run that has ended has computed: the output, as the ledger's text, of each step that
    has succeeded, and the attempt that computed it, in this run or in the one from which it was
    taken over."""

    run: StoredRun
    outputs: Mapping[str, str]
    sources: Mapping[str, Reused]


@dataclass(frozen=True)
class Rerun:
    """What a rerun will do. `reused` are the steps that are taken over, upstreams first; all others
    run.

    Of those that run although they had succeeded, `differing` are called or wired otherwise now,
    `missing` have an output that is not in the artifact store any more (by its path), and `below`
    are below a step that runs.
    """

    of: str
    pipeline: str
    plan: Plan
    settings: Settings
    target: str
    reused: tuple[str, ...]
    differing: tuple[str, ...]
    missing: Mapping[str, str]
    below: tuple[str, ...]
    new: tuple[str, ...]
    gone: tuple[str, ...]
    code_changed: tuple[str, ...]
    code: Mapping[str, str]
    params_changed: tuple[str, ...]
    finished: Finished


def check_ended(run: StoredRun) -> None:
    """Raise RerunRefused unless the run has ended."""
    if not run.state.is_ended:
        raise RerunRefused(
            f"run {run.run_id} is {run.state.value}: wait for its end, or end it: orchestrator"
            f" cancel {run.run_id}"
        )


def read_finished(ledger: Ledger, run: StoredRun) -> Finished:
    """Return what a run has computed. Raises RerunRefused when it has not ended, or somebody has
    just resumed it."""
    check_ended(run)
    outputs, reused = ledger.outputs(run.run_id), ledger.reused(run.run_id)
    if int(ledger.run_fields(run.run_id).get("resumes", 0)) != run.resumes:
        raise RerunRefused(
            f"somebody has just resumed run {run.run_id}: orchestrator show {run.run_id}"
        )
    succeeded = [step for step, (state, _) in run.states.items() if state is StepState.SUCCEEDED]
    return Finished(
        run,
        {step: outputs.get(step, "") for step in succeeded},
        {step: reused.get(step) or Reused(run.run_id, run.states[step][1]) for step in succeeded},
    )


def plan_rerun(
    finished: Finished,
    plan: Plan,
    settings: Settings,
    from_steps: Sequence[str] = (),
    *,
    has_artifact: Callable[[Artifact], bool] = lambda artifact: True,
    target: str = "",
) -> Rerun:
    """Return what a rerun by this plan will do; nothing is changed by that. Raises RerunRefused.

    A step is taken over if it succeeded, is called and wired as then, its output is still there,
    and nothing above it runs. `from_steps` run, and all that is below them. `target` is where the
    plan comes from, that of the run if empty.
    """
    run, steps = finished.run, plan.pipeline.steps
    if unknown := run.unknown_steps(from_steps, steps):
        raise RerunRefused(unknown)
    fields = run_fields(plan, settings, run.run_id, "")
    succeeded = {
        name for name in steps if name in run.steps and state_of(run, name) is StepState.SUCCEEDED
    }
    staged = {step.step: step for step in staged_steps(plan, settings) if step.step in succeeded}
    differing = {
        name
        for name, step in staged.items()
        if _is_wired_otherwise(step, run.steps[name])
        or is_other_call(run, step, str(fields["params"]))
    }
    missing = missing_artifacts(finished.outputs, succeeded, has_artifact)
    runs = with_descendants(steps, [*(steps.keys() - succeeded), *differing, *missing, *from_steps])
    code = code_now(run, code_of(plan.pipeline), str(fields["import_path"]))
    return Rerun(
        of=run.run_id,
        pipeline=plan.pipeline.name,
        plan=plan,
        settings=settings,
        target=target or run.target,
        reused=tuple(name for name in plan.order if name not in runs),
        differing=tuple(name for name in steps if name in differing),
        missing=missing,
        below=tuple(_only_below(steps, runs & succeeded, {*differing, *missing, *from_steps})),
        new=tuple(name for name in steps if name not in run.steps),
        gone=tuple(name for name in run.steps if name not in steps),
        code_changed=tuple(
            name for name in sorted({*code, *run.code}) if code.get(name) != run.code.get(name)
        ),
        code=code,
        params_changed=tuple(params_that_changed(run.fields["params"], str(fields["params"]))),
        finished=finished,
    )


def rerun(ledger: Ledger, app: Celery, planned: Rerun, run_id: str) -> None:
    """Start the new run, and send off what may start. Raises RunExists, and RerunRefused when a run
    whose outputs it takes over is not there any more."""
    plan, settings = planned.plan, planned.settings
    sources = {planned.finished.sources[step].run_id for step in planned.reused}
    for source in sorted(sources):
        if not ledger.lend(source, run_id):
            raise RerunRefused(
                f"run {source}, whose outputs would be taken over, is not there any more: somebody"
                " has deleted it"
            )
    fields = run_fields(plan, settings, run_id, planned.target) | {
        "code": code_text(planned.code),
        "code_id": code_id(planned.code),
        "rerun_of": planned.of,
        "reuses": json.dumps(sorted(sources)),
    }
    if labels := planned.finished.run.fields.get("labels"):
        fields["labels"] = labels
    heads = [plan.chains[index][0] for index in plan.roots]
    roots = [step for step in heads if step not in set(planned.reused)]
    chains = ledger.start(run_id, _with_reused(planned), roots, fields)
    Dispatcher(app, ledger).send(run_id, chains)


def _with_reused(planned: Rerun) -> Iterator[StagedStep]:
    places = {step: place for place, step in enumerate(planned.reused)}
    for staged in staged_steps(planned.plan, planned.settings):
        if staged.step in places:
            source = planned.finished.sources[staged.step]
            yield replace(
                staged,
                output=planned.finished.outputs[staged.step],
                reused=f"{places[staged.step]} {source.attempt} {source.run_id}",
            )
        else:
            yield staged


def _is_wired_otherwise(now: StagedStep, before: StagedStep) -> bool:
    """Return whether a step waits for others than when it ran, or by another rule."""
    if now.spec != before.spec:
        upstreams = [set(version.parsed_spec.upstream) for version in (now, before)]
        if upstreams[0] != upstreams[1]:
            return True
    return now.entry.trigger != before.entry.trigger


def _only_below(steps: Mapping[str, Step], runs: set[str], begun_by: set[str]) -> Iterator[str]:
    return (name for name in steps if name in runs and name not in begun_by)
