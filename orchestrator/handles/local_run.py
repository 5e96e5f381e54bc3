"""A pipeline run in this process, without a server: for tests and notebooks."""

from __future__ import annotations

import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.artifacts.layout import checkpoint_folder
from orchestrator.artifacts.outputs import decode_output, encode_output
from orchestrator.artifacts.step_values import StepValues
from orchestrator.artifacts.values import ArtifactStore
from orchestrator.attempt_context import Attempt, HandedOver, attempt_context
from orchestrator.attempt_id import AttemptId
from orchestrator.definition.builder import PipelineBuilder
from orchestrator.definition.callables import resolve_function
from orchestrator.definition.params import secrets_in
from orchestrator.definition.pipeline import Pipeline, ShellCall, Step
from orchestrator.definition.pipelines import PipelineFunction
from orchestrator.definition.retry import exception_names, may_retry
from orchestrator.definition.secrets import SecretValue
from orchestrator.definition.wire import from_wire, to_wire
from orchestrator.error_card import ErrorCard
from orchestrator.errors import RunFailed, RunNotFound, names_hint
from orchestrator.ledger.states import Outcome, RunState, StepState
from orchestrator.plan.compile import compile_pipeline
from orchestrator.record.rules import BAD, verdict_of
from orchestrator.record.run import AttemptRecord, StepRecord
from orchestrator.shell.running import run_shell

RUN_ID, WORKER = "local", "this process"
INLINE_BYTES = 4096
SHELL_OUTPUT_MB = 100


class LocalRun:
    """A run that has ended, with what a run on workers says of itself."""

    def __init__(
        self, pipeline: str, steps: dict[str, StepRecord], outputs: dict[str, Any]
    ) -> None:
        self.run_id, self.pipeline, self.steps = RUN_ID, pipeline, steps
        self._outputs = outputs

    @property
    def state(self) -> RunState:
        """State of the run; it compares with text."""
        has_failed = any(step.state is StepState.FAILED for step in self.steps.values())
        return RunState.FAILED if has_failed else RunState.SUCCEEDED

    def output(self, step: str) -> Any:
        """Return the output of a step. Raises RunNotFound for an unknown step, RunFailed for one
        that has not succeeded."""
        if step not in self.steps:
            raise RunNotFound(f"the run has no step {step!r}.{names_hint(step, self.steps)}")
        record = self.steps[step]
        if record.state is not StepState.SUCCEEDED:
            last = record.attempts[-1:]
            why = f": {last[0].error.line}" if last and last[0].error else ""
            raise RunFailed(RUN_ID, self.state.value, f"step {step} is {record.state.value}{why}")
        return self._outputs[step]

    def __repr__(self) -> str:
        return f"<LocalRun of {self.pipeline}: {self.state.value}>"


def run_local(
    source: PipelineFunction | PipelineBuilder | Pipeline, params: Mapping[str, Any]
) -> LocalRun:
    """Run a pipeline in this process, see `RunsLocally.run_local`."""
    pipeline = source if isinstance(source, Pipeline) else source.build(params)
    with tempfile.TemporaryDirectory(prefix="orchestrator-local-") as folder:
        return _LocalRunner(pipeline, Path(folder)).run()


class _LocalRunner:
    def __init__(self, pipeline: Pipeline, folder: Path) -> None:
        self._pipeline, self._folder = pipeline, folder
        self._store = ArtifactStore.in_folder(folder)
        self._texts: dict[str, str] = {}  # outputs as the ledger would keep them
        self._params_wire = {
            name: to_wire(value, typed=True)
            for name, value in pipeline.params.items()
            if not isinstance(value, SecretValue)
        }
        self._secrets = secrets_in(pipeline.params)
        self._tokens = 0

    def run(self) -> LocalRun:
        plan = compile_pipeline(self._pipeline)
        records = {
            name: StepRecord(upstream=step.upstream) for name, step in self._pipeline.steps.items()
        }
        for name in plan.order:
            step, record = self._pipeline.steps[name], records[name]
            states = {records[up].state for up in step.upstream}
            record.state = verdict_of(step.options.trigger, states)
            if record.state is StepState.QUEUED:
                self._run_step(step, record)
            else:
                bad = [up for up in step.upstream if records[up].state in BAD]
                record.because = next((records[up].because or up for up in bad), None)
        outputs = {name: decode_output(text, self._store) for name, text in self._texts.items()}
        return LocalRun(self._pipeline.name, records, outputs)

    def _run_step(self, step: Step, record: StepRecord) -> None:
        number = failures = 0
        while record.state is not StepState.SUCCEEDED:
            number += 1
            now_us = _now_us()
            attempt = AttemptRecord(number, now_us, WORKER, now_us)
            record.attempts.append(attempt)
            error = self._error_of(step, number)
            attempt.ended_at_us = _now_us()
            if error is None:
                attempt.outcome, record.state = Outcome.SUCCEEDED, StepState.SUCCEEDED
            elif isinstance(error, HandedOver):
                attempt.outcome = Outcome.HANDED_OVER
            else:
                failures += 1
                attempt.outcome, attempt.error = Outcome.FAILED, _card(error)
                if not may_retry(step.options, failures, exception_names(type(error))):
                    record.state = StepState.FAILED
                    return

    def _error_of(self, step: Step, number: int) -> BaseException | None:
        self._tokens += 1
        checkpoints = checkpoint_folder(self._folder, RUN_ID, step.name)
        here = Attempt(
            AttemptId(RUN_ID, step.name, number),
            self._tokens,
            WORKER,
            lambda: checkpoints,
            lambda: False,
        )
        try:
            with attempt_context(here, is_only=False):
                value = self._call(step)()
            self._texts[step.name] = encode_output(
                value,
                INLINE_BYTES,
                lambda value: self._store.save(here.id, here.token, value),
            )
        except (Exception, SystemExit, HandedOver) as error:
            return error
        return None

    def _call(self, step: Step) -> Callable[[], Any]:
        # looked up anew: on a worker no two steps share an object either
        values = StepValues(self._texts, self._params_wire, self._secrets, self._store)
        if isinstance(step.call, ShellCall):
            command = from_wire(to_wire(step.call.run))
            return partial(run_shell, command, values.of_reference, SHELL_OUTPUT_MB)
        function = resolve_function(step.call.uses)
        args = from_wire(to_wire(list(step.call.args)), values.output, values.param)
        kwargs = from_wire(to_wire(dict(step.call.kwargs)), values.output, values.param)
        return partial(function, *args, **kwargs)


def _card(error: BaseException) -> ErrorCard:
    text = "".join(traceback.format_exception(error))
    message = ""
    with suppress(Exception):  # the user's own __str__
        message = str(error)
    return ErrorCard(exception_names(type(error))[0], message, text)


def _now_us() -> int:
    return time.time_ns() // 1000
