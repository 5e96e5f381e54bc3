"""Submitting, running and finding runs from Python, on the same functions as the commands."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from orchestrator.definition.builder import PipelineBuilder
from orchestrator.definition.loading import Definition, LoadedDefinition, absolute_target
from orchestrator.definition.pipeline import Pipeline
from orchestrator.definition.pipelines import PipelineFunction
from orchestrator.errors import PipelineInvalid
from orchestrator.handles.place import here
from orchestrator.handles.run import Run
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.states import RunState
from orchestrator.runs.finding import RunFilter, find_run, read_labels
from orchestrator.runs.finding import list_runs as find_runs
from orchestrator.runs.loading import load_definition, plan_of
from orchestrator.runs.submission import new_run_id
from orchestrator.runs.submission import submit as submit_plan
from orchestrator.times import moment_us

Source = str | PipelineFunction | PipelineBuilder | Pipeline
NEWEST = 20


def submit(
    source: Source,
    /,
    *,
    params: Mapping[str, Any] | None = None,
    labels: Mapping[str, str] | None = None,
    **more: Any,
) -> Run:
    """Start a run and return it; it goes on while somebody waits for it, or a coordinator runs.

    `source` is a pipeline, or FILE[:NAME] as the commands take it. Params are given as keywords or
    in `params`; `labels` are for finding the run again. Raises PipelineInvalid with every fault,
    ServerUnreachable.
    """
    run_id = new_run_id()
    _submit(run_id, source, {**(params or {}), **more}, labels)
    return Run(run_id)


def run(
    source: Source,
    /,
    *,
    params: Mapping[str, Any] | None = None,
    labels: Mapping[str, str] | None = None,
    timeout: float | None = None,
    check: bool = True,
    **more: Any,
) -> Run:
    """Run a pipeline to its end and return the run. Raises what `submit` raises, RunFailed when it
    has not succeeded (unless `check` is false), and TimeoutError after `timeout` seconds: then the
    run goes on. A KeyboardInterrupt cancels it."""
    run_id = new_run_id()
    try:
        _submit(run_id, source, {**(params or {}), **more}, labels)
        return Run(run_id).wait(timeout, check=check)
    except KeyboardInterrupt:
        ledger = here().installation.ledger
        ledger.client.connection_pool.disconnect()  # half an answer may be left there
        if ledger.exists(run_id):
            Run(run_id).cancel(reason="interrupted")
        raise


def open_run(run_id: str) -> Run:
    """Return a run by its id, the beginning of one, or "last". Raises RunNotFound."""
    return Run(find_run(here().installation.ledger, run_id))


def list_runs(
    *,
    pipeline: str = "",
    state: str | RunState | None = None,
    labels: Mapping[str, str] | None = None,
    label: str | None = None,
    since: datetime | str | None = None,
    limit: int = NEWEST,
    before: Run | str = "",
) -> list[Run]:
    """Return runs, newest first, at most `limit`: of one pipeline, in one state, with these labels
    (or one, as "key=value"), created at or after `since` (or so long ago, as "12h"), older than the
    run `before`, where these are given. Raises ValueError for what makes no sense, RunNotFound."""
    ledger = here().installation.ledger
    oldest = before.run_id if isinstance(before, Run) else before and find_run(ledger, before)
    wanted = RunFilter(
        pipeline,
        None if state is None else RunState(state),
        {**(labels or {}), **(read_labels([label]) if label else {})},
        _since_us(ledger, since),
    )
    return [Run(run_id) for run_id in find_runs(ledger, wanted, limit, oldest)]


def _submit(
    run_id: str, source: Source, params: Mapping[str, Any], labels: Mapping[str, str] | None
) -> None:
    place = here()
    settings = place.settings_to_run()
    definition, target = _definition_and_target(source)
    plan = plan_of(definition, params, settings).plan
    installation = place.installation
    submit_plan(plan, installation.ledger, installation.app, settings, run_id, target, labels)


def _since_us(ledger: Ledger, since: datetime | str | None) -> int:
    if isinstance(since, str):
        return moment_us(since, ledger.now_us())
    return 0 if since is None else round(since.timestamp() * 1e6)


def _definition_and_target(source: Source) -> tuple[Definition, str]:
    if isinstance(source, str):
        return load_definition(source), absolute_target(source)
    if not isinstance(source, PipelineFunction | PipelineBuilder | Pipeline):
        raise PipelineInvalid(
            repr(source),
            ["this is not a pipeline. Give one, or where it is: FILE[:NAME]"],
        )
    return LoadedDefinition(source, source.import_path), _target_of(source)


def _target_of(source: PipelineFunction | PipelineBuilder | Pipeline) -> str:
    """Return where a later resume finds the pipeline again; "" if that is not known."""
    if not isinstance(source, PipelineFunction):
        return ""
    try:
        file = inspect.getsourcefile(source.function)
    except TypeError:
        file = None
    return f"{file}:{source.name}" if file and file.endswith(".py") else ""
