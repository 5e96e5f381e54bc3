"""One step of a past run, run again in this process with what it was given then, so that somebody
can look into it. Nothing of the run changes."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.artifacts.serializers.pickles import write_pickle
from orchestrator.artifacts.step_values import StepValues
from orchestrator.artifacts.store import FolderStore
from orchestrator.artifacts.values import ArtifactStore
from orchestrator.attempt_context import Attempt, attempt_context
from orchestrator.attempt_id import AttemptId
from orchestrator.definition.callables import resolve_function
from orchestrator.definition.folders import put_on_path
from orchestrator.definition.loading import parse_params
from orchestrator.definition.secrets import SecretValue
from orchestrator.definition.wire import from_wire, to_wire
from orchestrator.errors import RunNotFound, StepNotRunnable, names_hint
from orchestrator.installation import Installation
from orchestrator.ledger.entries import CallKind, StepSpec
from orchestrator.record.received import Received, reads_of
from orchestrator.record.run import RunRecord, read_record
from orchestrator.runs.differences import code_now
from orchestrator.runs.loading import Ask, import_own_modules, nobody_to_ask
from orchestrator.runs.reloading import definition_of
from orchestrator.runs.stored import read_run
from orchestrator.shell.running import run_shell
from orchestrator.wording import listed

WORKER, OUTPUT = "the desk", "output.pickle"


@dataclass(frozen=True)
class DeskStep:
    """A step of a past run that can be run here. `folder` gets its output and its checkpoints;
    `changed` are the files that differ from those of the run."""

    attempt: AttemptId
    call: Callable[[], Any]
    is_command: bool
    folder: Path
    changed: tuple[str, ...]

    def run(self) -> Any:
        """Call the step and return its value. What the step raises passes through."""
        checkpoints = self.folder / "checkpoints"
        here = Attempt(self.attempt, 1, WORKER, lambda: checkpoints, lambda: False)
        with attempt_context(here, is_only=True):
            return self.call()

    def save(self, value: Any) -> Path:
        """Keep the value in the folder as a pickle, and return its path."""
        with FolderStore(self.folder).write(OUTPUT) as writer:
            write_pickle(value, writer.write)
        return self.folder / OUTPUT


def prepare_step(
    installation: Installation,
    run_id: str,
    step: str,
    attempt: int | None = None,
    *,
    pairs: Sequence[str] = (),
    ask: Ask = nobody_to_ask,
    say: Callable[[str], object] = lambda text: None,
) -> DeskStep:
    """Return a step with the arguments of one of its attempts, the last one that began if None.

    `pairs` are other values for params that it reads by reference, as key=value; `ask` returns
    secrets that somebody knows. Raises RunNotFound, StepNotRunnable, FunctionNotFound,
    PipelineInvalid, ArtifactMissing.
    """
    ledger, settings = installation.ledger, installation.settings
    record = read_record(ledger, run_id)
    if step not in record.steps:
        raise RunNotFound(f"run {run_id} has no step {step!r}.{names_hint(step, record.steps)}")
    number, received = _received(record, step, attempt)
    run = read_run(ledger, run_id)
    import_own_modules()
    if path := run.fields["import_path"]:
        put_on_path(path)
    read = set(reads_of(received.spec)[1])
    if stray := [pair for pair in pairs if pair.partition("=")[0] not in read]:
        raise StepNotRunnable(
            f"step {step!r} does not read param {stray[0].partition('=')[0]!r} by reference: what"
            " it was called with stays"
        )
    given = parse_params(pairs, definition_of(run, pairs, say)) if pairs else {}
    secrets = {name: value.text for name, value in given.items() if isinstance(value, SecretValue)}
    names = json.loads(run.fields.get("secrets") or "[]")
    if unknown := sorted(read.intersection(names) - secrets.keys()):
        secrets |= ask(unknown)
    if missing := [name for name in unknown if name not in secrets]:
        raise StepNotRunnable(
            f"the secret params of run {run_id} are gone with its end. Give"
            f" {listed([f'-p {name}=@FILE' for name in missing], 5)}"
        )
    params = {
        **received.params_wire,
        **{
            name: to_wire(value, typed=True) for name, value in given.items() if name not in secrets
        },
    }
    outputs = {source.step: source.text for source in received.sources.values()}
    store = ArtifactStore.in_folder(settings.artifact_root)
    values = StepValues(outputs, params, secrets, store)
    call = _call(received.spec, values, settings.shell_output_mb, step)
    return DeskStep(
        AttemptId(run_id, step, number),
        call,
        received.spec.kind is CallKind.SHELL,
        _new_folder(settings.data_dir / "desk", run_id, step),
        tuple(_changed(run.code, code_now(run, {}, path))),
    )


def _received(record: RunRecord, step: str, number: int | None) -> tuple[int, Received]:
    """Return the attempt that is meant and what it was given; of a step that never began what it
    would be given."""
    attempts = record.steps[step].attempts
    begun = [attempt for attempt in attempts if attempt.began_place is not None]
    chosen = [attempt for attempt in begun if number in (None, attempt.attempt)][-1:]
    if chosen and (received := record.received(step, chosen[0])):
        return chosen[0].attempt, received
    if begun:
        known = ", ".join(str(attempt.attempt) for attempt in begun)
        raise RunNotFound(f"step {step!r} has no attempt {number} that began, only {known}")
    received = record.would_receive(step)
    lacking = [source.step for source in received.sources.values() if source.attempt is None]
    if number is not None or lacking:
        what = f"it would read the output of {listed(lacking, 5)}" if lacking else "it never began"
        raise StepNotRunnable(f"step {step!r} did not run in run {record.run_id}: {what}")
    return 1, received


def _call(spec: StepSpec, values: StepValues, output_mb: int, step: str) -> Callable[[], Any]:
    if spec.kind is CallKind.SHELL:
        return partial(run_shell, from_wire(spec.command), values.of_reference, output_mb)
    function = resolve_function(spec.uses)
    try:
        args = from_wire(list(spec.args), values.output, values.param)
        kwargs = from_wire(dict(spec.kwargs), values.output, values.param)
    except Exception as error:  # unpickling is the user's code
        raise StepNotRunnable(
            f"what step {step!r} reads cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    return partial(function, *args, **kwargs)


def _changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    return [name for name in before if now.get(name) != before[name]]


def _new_folder(desk: Path, run_id: str, step: str) -> Path:
    name = f"{run_id}.{re.sub('[^A-Za-z0-9.-]+', '_', step)}"
    for number in itertools.count(1):
        folder = desk / f"{name}.{number}"
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
    raise AssertionError
