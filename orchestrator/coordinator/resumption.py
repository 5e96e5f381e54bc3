"""Letting a run that has ended go on in its own record: what is kept, what runs anew, and by which plan."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celery import Celery

from orchestrator.coordinator.recorded import RecordedRun
from orchestrator.coordinator.stopping import stopping_limit_s, wait_until_stopped
from orchestrator.coordinator.submission import run_fields, staged_steps
from orchestrator.definition.code import code_id, code_of, code_text
from orchestrator.definition.faults import OrchestratorError, did_you_mean
from orchestrator.definition.model import Step
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.received import Received
from orchestrator.ledger.states import RunState, StepState
from orchestrator.ledger.values import AttemptsStopping, ResumedMeanwhile, RunNotEnded, StagedStep
from orchestrator.messages.dispatch import dispatch
from orchestrator.plan.compile import compile_pipeline
from orchestrator.plan.plan import Plan
from orchestrator.settings import Settings


class ResumeRefused(OrchestratorError):
    """A run cannot be resumed now, or not as it was asked for."""


@dataclass(frozen=True)
class Resumption:
    """What a resume will do. Steps that are neither in `resets` nor `gone` have succeeded and are kept.

    `resets` wait anew, each with how many of its upstreams are kept; `again` are those of them that had succeeded, of
    which `judged_anew` were not asked for but decided by a step that waits anew, and `new` those that the run did not
    have. `gone` are steps that the pipeline no longer has. `differing` are kept though
    the pipeline now calls them with other arguments. `staged` is empty when the plan is as it was.
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
    code_changed: tuple[str, ...]
    params_changed: Mapping[str, Any]  # as JSON; None for one that is there no longer
    seen_resumes: int
    asked_from: tuple[str, ...] = ()
    last_event: str = "0"  # before the resume

    @property
    def detail(self) -> dict[str, Any]:
        """Give what the event tells beside the steps that run again, that are added or gone, and how many wait anew."""
        told = {
            "from": list(self.asked_from),
            "code_changed": list(self.code_changed),
            "params": dict(self.params_changed),
        }
        return {name: value for name, value in told.items() if value}


def check_resumable(run: RecordedRun, from_steps: Sequence[str] = ()) -> None:
    """Raise ResumeRefused unless the run has ended and something is left to do for a resume."""
    if not run.state.is_ended:
        raise ResumeRefused(_not_ended(run.run_id, run.state.value))
    if run.state is RunState.SUCCEEDED and not from_steps:
        raise ResumeRefused(
            f"run {run.run_id} has succeeded: nothing is left to do. --from STEP runs a step and all below it again."
        )


def plan_resume(
    run: RecordedRun, plan: Plan, app: Celery, settings: Settings, from_steps: Sequence[str] = (), target: str = ""
) -> Resumption:
    """Give what a resume of the run by this plan will do; nothing is changed yet. Raises ResumeRefused.

    `from_steps` run again, and all that is below them. `target` is where the plan comes from, that of the run if empty.
    """
    check_resumable(run, from_steps)
    steps = plan.pipeline.steps
    if unknown := [name for name in dict.fromkeys(from_steps) if name not in steps]:
        raise ResumeRefused(
            " ".join(f"run {run.run_id} has no step {name!r}.{did_you_mean(name, steps)}" for name in unknown)
        )
    succeeded = {name for name in steps if name in run.steps and _state(run, name) is StepState.SUCCEEDED}
    asked = _with_descendants(steps, from_steps)
    kept = _kept(run, steps, succeeded - asked)
    again = succeeded - kept
    if unproven := kept & _with_descendants(steps, set(steps) - kept):
        plan = compile_pipeline(plan.pipeline, unproven=unproven)
    staged = tuple(staged_steps(plan, settings))
    most_attempts = max((attempts for _, attempts in run.states.values()), default=0)
    fields = run_fields(plan, settings, run.run_id, target or run.target, most_attempts)
    code = _code_now(run, code_of(plan.pipeline), str(fields["import_path"]))
    fields |= {"code": code_text(code), "code_id": code_id(code)}
    fields.setdefault("alerts", "[]")  # the pipeline may have had some before
    params = _params_changed(run.fields["params"], str(fields["params"]))
    return Resumption(
        run_id=run.run_id,
        pipeline=plan.pipeline.name,
        resets=tuple((name, sum(up in kept for up in plan.upstream[name])) for name in steps if name not in kept),
        again=tuple(name for name in steps if name in again),
        judged_anew=tuple(name for name in steps if name in again - asked),
        new=tuple(name for name in steps if name not in run.steps),
        gone=tuple(name for name in run.steps if name not in steps),
        kept=len(kept),
        differing=tuple(
            step.step for step in staged if step.step in kept and _is_other_call(run, step, str(fields["params"]))
        ),
        staged=() if {step.step: step for step in staged} == run.steps else staged,
        fields=fields,
        code_changed=tuple(name for name in sorted({*code, *run.code}) if code.get(name) != run.code.get(name)),
        params_changed=params,
        seen_resumes=run.resumes,
        asked_from=tuple(dict.fromkeys(from_steps)),
        last_event=run.last_event,
    )


def resume(ledger: Ledger, app: Celery, resumption: Resumption) -> None:
    """Let the run go on, and send off what may start. Raises ResumeRefused when it is not as it was when planned."""
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
    except ResumedMeanwhile:
        raise ResumeRefused(f"somebody else has just resumed run {run_id}: orchestrator show {run_id}") from None
    except AttemptsStopping as error:
        many = "1 attempt is" if error.count == 1 else f"{error.count} attempts are"
        raise ResumeRefused(f"run {run_id}: {many} still being stopped. Try again in a moment.") from None
    dispatch(app, run_id, resumption.pipeline, chains)


def wait_for_stopping(ledger: Ledger, settings: Settings, run_id: str) -> None:
    """Wait until the attempts of a run that was cancelled are gone. Raises ResumeRefused when they do not go."""
    limit_s = stopping_limit_s(settings)
    if left := wait_until_stopped(ledger, settings, run_id, limit_s):
        shown = ", ".join(f"{attempt.step} on {attempt.worker}" for attempt in left[:5])
        more = f" and {len(left) - 5} more" if left[5:] else ""
        raise ResumeRefused(
            f"run {run_id} cannot go on yet: after {limit_s:g} s these are still being stopped: {shown}{more}. "
            "Look at those workers, or try again."
        )


def _not_ended(run_id: str, state: str) -> str:
    return (
        f"run {run_id} is {state}: only a run that has ended can be resumed. "
        f"If nobody works on it any more, end it first: orchestrator cancel {run_id}"
    )


def _state(run: RecordedRun, step: str) -> StepState:
    return run.states[step][0] if step in run.states else StepState.WAITING


def _kept(run: RecordedRun, steps: Mapping[str, Step], succeeded: set[str]) -> set[str]:
    """Return which of the steps that succeeded keep that: those above which nothing waits anew.

    Whatever let a step run, be it the success of its upstreams, a failure or just their end, it was decided by them.
    Where one of them is open again, so is the decision, whether or not that one gets an attempt. An upstream that the
    step has only now has decided nothing.
    """
    decided_by = {name: _decided_by(run, step) for name, step in steps.items() if name in succeeded}
    decides: dict[str, list[str]] = {}
    for name, upstreams in decided_by.items():
        for upstream in upstreams:
            decides.setdefault(upstream, []).append(name)
    kept, ahead = set(succeeded), [name for name in steps if name in run.steps and name not in succeeded]
    while ahead:
        for name in decides.get(ahead.pop(), ()):
            if name in kept:
                kept.remove(name)
                ahead.append(name)
    return kept


def _decided_by(run: RecordedRun, step: Step) -> Collection[str]:
    if not step.upstream:
        return ()
    before = json.loads(run.steps[step.name].spec).get("upstream", ())
    return [name for name in step.upstream if name in before]


def _with_descendants(steps: Mapping[str, Step], begin: Iterable[str]) -> set[str]:
    """Give these steps and all that waits for them, directly or not, by the edges that the user wrote."""
    ahead = list(begin)
    if not ahead:
        return set()
    children: dict[str, list[str]] = {}
    for name, step in steps.items():
        for upstream in step.upstream:
            children.setdefault(upstream, []).append(name)
    found = set(ahead)
    while ahead:
        below = [child for child in children.get(ahead.pop(), ()) if child not in found]
        found.update(below)
        ahead += below
    return found


def _is_other_call(run: RecordedRun, now: StagedStep, params: str) -> bool:
    """Return whether a step that is kept was called otherwise, when it ran, than it would be now.

    Its upstreams are kept too, so that their outputs are those that it read.
    """
    spec, then = run.spec_of_success(now.step), run.params_of_success(now.step)
    if spec == now.spec and then == params:
        return False
    return bool(Received(json.loads(spec), json.loads(then), {}).differences(
        Received(json.loads(now.spec), json.loads(params), {})
    ))  # fmt: skip


def _params_changed(before: str, now: str) -> dict[str, Any]:
    if before == now:
        return {}
    old, new = json.loads(before), json.loads(now)
    return {
        name: new.get(name)
        for name in {**old, **new}
        if name not in old or json.dumps(old[name]) != json.dumps(new.get(name))  # 1, 1.0 and True are equal in Python
    }


def _code_now(run: RecordedRun, loaded: Mapping[str, str], import_path: str) -> dict[str, str]:
    """Give the files with their SHA-256 as they are now: those that were loaded, and those known from before."""
    code = dict(loaded)
    for name in run.code:
        file = Path(import_path, name)
        if name not in code and import_path and file.is_file():
            code[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return code
