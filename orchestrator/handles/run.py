"""A run as a Python program holds it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.artifacts.outputs import decode_output
from orchestrator.artifacts.values import ArtifactStore
from orchestrator.attempt_id import AttemptId
from orchestrator.errors import RunFailed, RunNotFound, names_hint
from orchestrator.handles.html import run_html
from orchestrator.handles.place import here
from orchestrator.ledger.events import Event
from orchestrator.ledger.states import RunState, StepState
from orchestrator.record.run import RunRecord, StepRecord, read_record, read_skeleton
from orchestrator.runs.surroundings import Unserved
from orchestrator.wording import counted


class Run:
    """One run. What it says is read when it is asked for, so it is as of then.

    `wait` follows the run and does what is due in it, as `orchestrator run` does, so that a run
    needs no coordinator while somebody waits for it.
    """

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self._last: RunRecord | None = None  # of a run that has ended

    @property
    def record(self) -> RunRecord:
        """The whole record."""
        if self._last is None:
            record = read_record(here().installation.ledger, self.run_id)
            if not record.state.is_ended:
                return record
            self._last = record
        return self._last

    @property
    def state(self) -> RunState:
        """State of the run; it compares with text, as in `run.state == "succeeded"`."""
        if self._last is not None:
            return self._last.state
        return RunState(here().installation.ledger.run_fields(self.run_id)["state"])

    @property
    def pipeline(self) -> str:
        """Name of the pipeline."""
        return self.record.pipeline

    @property
    def steps(self) -> Mapping[str, StepRecord]:
        """The steps by name, each with `state` and `attempts`."""
        return self.record.steps

    @property
    def params(self) -> Mapping[str, Any]:
        """The params, as plain JSON."""
        from orchestrator.artifacts.plain import plain_json

        shown: dict[str, Any] = plain_json(self.record.params_wire)
        return shown

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels that it was submitted with, and those of the settings."""
        return self.record.labels

    def wait(self, timeout: float | None = None, *, check: bool = False) -> Run:
        """Wait for the end, at most `timeout` seconds. Raises TimeoutError; with `check`, RunFailed
        when the run has not succeeded."""
        if not self.state.is_ended:
            self._follow(timeout)
        self._last = None
        if check and self.state is not RunState.SUCCEEDED:
            raise RunFailed(self.run_id, self.state.value, self._cause())
        return self

    def _follow(self, timeout: float | None) -> None:
        from orchestrator.runs.following import follow

        place = here()
        record = read_skeleton(place.installation.ledger, self.run_id)
        within_s = math.inf if timeout is None else timeout
        local = place.workers_there()
        follow(place.installation, record, _Quiet(), local, within_s=within_s)

    def _cause(self) -> str:
        record = self.record
        failed = [name for name, step in record.steps.items() if step.state is StepState.FAILED]
        if not failed:
            return record.cancel_reason or "no step failed"
        last = record.steps[failed[0]].attempts[-1:]
        error = last[0].error.line if last and last[0].error else "no error was recorded"
        more = f" (and {counted(len(failed) - 1, 'other step')})" if len(failed) > 1 else ""
        return f"step {failed[0]}: {error}{more}"

    def output(self, step: str) -> Any:
        """Return the output of a step, as a step below it gets it. Raises RunNotFound for an
        unknown step, RunFailed for one that has not succeeded, and ArtifactMissing."""
        record = self.record
        state = self._step(record, step).state
        if state is not StepState.SUCCEEDED:
            raise RunFailed(self.run_id, record.state.value, f"step {step} is {state.value}")
        installation = here().installation
        store = ArtifactStore.in_folder(installation.settings.artifact_root)
        secrets = installation.ledger.secrets(self.run_id) or {}
        text = record.outputs.get(step, "")
        return decode_output(text, store, lambda name, path: secrets.get(name, "***"))

    def logs(self, step: str | None = None, attempt: int | None = None) -> str:
        """Return what a step wrote (all steps in the order of the pipeline if None), of its last
        attempt unless `attempt` says otherwise."""
        record, ledger = self.record, here().installation.ledger
        lines: list[str] = []
        for name in record.steps if step is None else [step]:
            attempts = self._step(record, name).attempts
            number = attempt or (attempts[-1].attempt if attempts else 0)
            lines += ledger.log_lines(AttemptId(self.run_id, name, number))
        return "\n".join(lines)

    def _step(self, record: RunRecord, name: str) -> StepRecord:
        if name not in record.steps:
            hint = names_hint(name, record.steps)
            raise RunNotFound(f"run {self.run_id} has no step {name!r}.{hint}")
        return record.steps[name]

    def events(self) -> Sequence[Event]:
        """Return all that happened, oldest first."""
        return list(here().installation.ledger.events(self.run_id))

    def cancel(self, *steps: str, reason: str = "cancelled from Python") -> Run:
        """Cancel the run, or only these steps of it, and wait until what runs is stopped."""
        from orchestrator.runs.cancelling import cancel_run

        cancel_run(here().installation, self.run_id, steps, reason)
        self._last = None
        return self

    def resume(self, *from_steps: str, params: Mapping[str, Any] | None = None, **more: Any) -> Run:
        """Let a run go on that failed or was cancelled. Raises ResumeRefused, PipelineInvalid."""
        from orchestrator.handles.continuing import resume

        self._last = None
        resume(self.run_id, from_steps, {**(params or {}), **more})
        return self

    def rerun(self, *from_steps: str, params: Mapping[str, Any] | None = None, **more: Any) -> Run:
        """Return a new run that takes over what this one has computed and runs the rest. Raises
        RerunRefused, PipelineInvalid."""
        from orchestrator.handles.continuing import rerun

        return Run(rerun(self.run_id, from_steps, {**(params or {}), **more}))

    def delete(self, *, keep_artifacts: bool = False) -> None:
        """Delete the run: record, logs, artifacts and checkpoints. Raises DeleteRefused while it
        has not ended, or another run has taken over outputs of it."""
        from orchestrator.runs.deleting import delete_run

        delete_run(here().installation, self.run_id, keeps_artifacts=keep_artifacts)

    def __repr__(self) -> str:
        record = self.record
        ended = sum(step.state.is_ended for step in record.steps.values())
        return (
            f"<Run {self.run_id} of {record.pipeline}: {record.state.value}, {ended} of"
            f" {counted(len(record.steps), 'step')} ended>"
        )

    def _repr_html_(self) -> str:
        return run_html(self.record)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and other.run_id == self.run_id

    def __hash__(self) -> int:
        return hash(self.run_id)


class _Quiet:
    """Shows nothing of a run that a program waits for, but warns of what is unexpected."""

    def show(self, events: Sequence[Event]) -> None:
        pass

    def show_unserved(self, unserved: Sequence[Unserved]) -> None:
        pass

    def warn(self, text: str) -> None:
        warnings.warn(text, stacklevel=2)

    def look(self) -> None:
        pass
