"""Letting a run that has ended go on in its own record: what is kept, what runs anew, and by which
plan."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from celery import Celery

from orchestrator.artifacts.reference import Artifact
from orchestrator.definition.code import code_id, code_of, code_text
from orchestrator.definition.pipeline import Step
from orchestrator.errors import ResumeRefused
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.staging import staged_steps
from orchestrator.ledger.states import RunState, StepState
from orchestrator.ledger.values import (
    AttemptsStopping,
    ResumedMeanwhile,
    RunNotEnded,
    RunSucceeded,
    StagedStep,
)
from orchestrator.messages.dispatch import Dispatcher
from orchestrator.plan.compile import compile_pipeline
from orchestrator.plan.plan import Plan
from orchestrator.runs.differences import (
    code_now,
    is_other_call,
    missing_artifacts,
    params_that_changed,
    state_of,
    with_descendants,
)
from orchestrator.runs.stopping import stopping_within_s, wait_until_stopped
from orchestrator.runs.stored import StoredRun
from orchestrator.runs.submission import run_fields
from orchestrator.settings.model import Settings
from orchestrator.wording import listed


@dataclass(frozen=True)
class Resumption:
    """What a resume will do. Steps that are neither in `resets` nor `gone` have succeeded and are
    kept.

    `resets` wait anew, each with how many of its upstreams are kept; `again` are those of them that
    had succeeded, of which `judged_anew` were not asked for but decided by a step that waits anew,
    and `new` those that the run did not have. `gone` are steps that the pipeline no longer has.
    `differing` are kept though the pipeline now calls them with other arguments. `staged` is empty
    when the plan is as it was.
    """

    run_id: str
    pipeline: str
    resets: tuple[tuple[str, int], ...]
    again: tuple[str, ...]
    judged_anew: tuple[str, ...]
    new: tuple[str, ...]
    gone: tuple[str, ...]
    kept: int
    differing: tuple[str, ...]
    staged: tuple[StagedStep, ...]
    fields: Mapping[str, str | int]
    # steps whose output is not in the artifact store any more, with its path
    missing: Mapping[str, str]
    code_changed: tuple[str, ...]
    params_changed: Mapping[str, Any]  # as JSON; None for one that is there no longer
    seen_resumes: int
    asked_from: tuple[str, ...] = ()
    last_event: str = "0"  # before the resume

    @property
    def detail(self) -> dict[str, Any]:
        """Return what the event says beside the steps that run again, are added or gone, and how
        many wait anew."""
        words = {
            "from": list(self.asked_from),
            "code_changed": list(self.code_changed),
            "params": dict(self.params_changed),
        }
        return {name: value for name, value in words.items() if value}


def check_resumable(run: StoredRun, from_steps: Sequence[str] = ()) -> None:
    """Raise ResumeRefused unless the run has ended without success: a good run cannot be spoilt by
    going on with it."""
    if not run.state.is_ended:
        raise ResumeRefused(_not_ended(run.run_id, run.state.value))
    if run.state is RunState.SUCCEEDED:
        raise ResumeRefused(_succeeded(run.run_id, from_steps))


def plan_resume(
    run: StoredRun,
    plan: Plan,
    settings: Settings,
    from_steps: Sequence[str] = (),
    target: str = "",
    *,
    outputs: Mapping[str, str] = MappingProxyType({}),
    has_artifact: Callable[[Artifact], bool] = lambda artifact: True,
) -> Resumption:
    """Return what a resume of the run by this plan will do; nothing is changed yet. Raises
    ResumeRefused.

    `from_steps` run again, and all that is below them; so do steps whose output (`outputs`) has
    left the store. `target` is where the plan comes from, that of the run if empty.
    """
    check_resumable(run, from_steps)
    steps = plan.pipeline.steps
    if unknown := run.unknown_steps(from_steps, steps):
        raise ResumeRefused(unknown)
    ran = [name for name in steps if name in run.steps]
    succeeded = {name for name in ran if state_of(run, name) is StepState.SUCCEEDED}
    missing = missing_artifacts(outputs, succeeded, has_artifact)
    asked = with_descendants(steps, [*from_steps, *missing])
    kept = _kept(run, steps, succeeded - asked)
    again = succeeded - kept
    if unproven := kept & with_descendants(steps, set(steps) - kept):
        plan = compile_pipeline(plan.pipeline, unproven=unproven)
    staged = tuple(staged_steps(plan, settings))
    fields, code = _fields_and_code(run, plan, settings, target)
    params = params_that_changed(run.fields["params"], str(fields["params"]))
    return Resumption(
        run_id=run.run_id,
        pipeline=plan.pipeline.name,
        resets=tuple(
            (name, sum(up in kept for up in plan.upstream[name]))
            for name in steps
            if name not in kept
        ),
        again=tuple(name for name in steps if name in again),
        judged_anew=tuple(name for name in steps if name in again - asked),
        new=tuple(name for name in steps if name not in run.steps),
        gone=tuple(name for name in run.steps if name not in steps),
        missing=missing,
        kept=len(kept),
        differing=tuple(
            step.step
            for step in staged
            if step.step in kept and is_other_call(run, step, str(fields["params"]))
        ),
        staged=() if {step.step: step for step in staged} == run.steps else staged,
        fields=fields,
        code_changed=tuple(
            file for file in sorted({*code, *run.code}) if code.get(file) != run.code.get(file)
        ),
        params_changed=params,
        seen_resumes=run.resumes,
        asked_from=tuple(dict.fromkeys(from_steps)),
        last_event=run.last_event,
    )


def _fields_and_code(
    run: StoredRun, plan: Plan, settings: Settings, target: str
) -> tuple[dict[str, str | int], dict[str, str]]:
    most_attempts = max((attempts for _, attempts in run.states.values()), default=0)
    fields = run_fields(plan, settings, run.run_id, target or run.target, most_attempts)
    code = code_now(run, code_of(plan.pipeline), str(fields["import_path"]))
    fields |= {"code": code_text(code), "code_id": code_id(code)}
    fields.setdefault("alerts", "[]")  # the pipeline may have had some before
    return fields, code


def resume(ledger: Ledger, app: Celery, resumption: Resumption) -> None:
    """Let the run go on, and send off what may start. Raises ResumeRefused when it is not as it was
    when planned."""
    run_id = resumption.run_id
    try:
        chains = ledger.resume(
            run_id,
            resumption.resets,
            again=resumption.again,
            gone=resumption.gone,
            staged=resumption.staged,
            fields=resumption.fields,
            detail=resumption.detail,
            seen_resumes=resumption.seen_resumes,
        )
    except RunNotEnded as error:
        raise ResumeRefused(_not_ended(run_id, str(error))) from None
    except RunSucceeded:
        raise ResumeRefused(_succeeded(run_id, resumption.asked_from)) from None
    except ResumedMeanwhile:
        raise ResumeRefused(
            f"somebody else has just resumed run {run_id}: orchestrator show {run_id}"
        ) from None
    except AttemptsStopping as error:
        many = "1 attempt is" if error.count == 1 else f"{error.count} attempts are"
        raise ResumeRefused(
            f"run {run_id}: {many} still being stopped. Try again in a moment."
        ) from None
    Dispatcher(app, ledger).send(run_id, chains)


def wait_for_stopping(ledger: Ledger, settings: Settings, run_id: str) -> None:
    """Wait until the attempts of a run that was cancelled are gone. Raises ResumeRefused when they
    do not go."""
    within_s = stopping_within_s(settings)
    if left := wait_until_stopped(ledger, settings, run_id, within_s):
        shown = listed([f"{attempt.step} on {attempt.worker}" for attempt in left], 5)
        raise ResumeRefused(
            f"run {run_id} cannot go on yet: after {within_s:g} s these are still being stopped:"
            f" {shown}. Look at those workers, or try again."
        )


def _succeeded(run_id: str, from_steps: Sequence[str]) -> str:
    again = "".join(f" --from {shlex.quote(name)}" for name in from_steps) or " --from STEP"
    return (
        f"run {run_id} has succeeded, and stays as it is. A new run can take over what it has"
        f" computed and run the rest again: orchestrator rerun {run_id}{again}"
    )


def _not_ended(run_id: str, state: str) -> str:
    return (
        f"run {run_id} is {state}: only a run that has ended can be resumed. "
        f"If nobody works on it any more, end it first: orchestrator cancel {run_id}"
    )


def _kept(run: StoredRun, steps: Mapping[str, Step], succeeded: set[str]) -> set[str]:
    """Return which of the steps that succeeded keep that: those above which nothing waits anew.

    Whatever let a step run, be it the success of its upstreams, a failure or just their end, it was
    decided by them. Where one of them is open again, so is the decision, whether or not that one
    gets an attempt. An upstream that the step has only now has decided nothing.
    """
    decided_by = {name: _decided_by(run, step) for name, step in steps.items() if name in succeeded}
    decides: dict[str, list[str]] = {}
    for name, upstreams in decided_by.items():
        for upstream in upstreams:
            decides.setdefault(upstream, []).append(name)
    kept, ahead = (
        set(succeeded),
        [name for name in steps if name in run.steps and name not in succeeded],
    )
    while ahead:
        for name in decides.get(ahead.pop(), ()):
            if name in kept:
                kept.remove(name)
                ahead.append(name)
    return kept


def _decided_by(run: StoredRun, step: Step) -> Collection[str]:
    if not step.upstream:
        return ()
    before = run.steps[step.name].parsed_spec.upstream
    return [name for name in step.upstream if name in before]
