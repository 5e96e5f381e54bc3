"""What each attempt of a run was given, read from the record: its call, the params then, and the
outputs that it read.

Nothing of this is written while steps run. A claim gives an attempt the spec of its step, the
params and the outputs as they are at that moment, and only a resume changes those: it keeps what it
replaces (`past` in `lua/keys.lua`). So the order of the events says what an attempt got, also one
that died.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.definition.pipeline import OutputRef, ParamRef, Template
from orchestrator.definition.references import written
from orchestrator.definition.wire import from_wire, references, to_wire
from orchestrator.ledger.details import Resumed
from orchestrator.ledger.entries import CallKind, StepSpec
from orchestrator.ledger.events import Event, EventKind
from orchestrator.ledger.past import Past


@dataclass(frozen=True, slots=True)
class Source:
    """An output that was read. `attempt` is None when the step had no success then, 0 when that was
    taken over from another run; the text is that of the ledger, "" for null."""

    step: str
    attempt: int | None
    text: str


@dataclass(frozen=True)
class Received:
    """What an attempt was given. Specs and params are in the wire form."""

    spec: StepSpec
    params_wire: Mapping[str, Any]
    sources: Mapping[str, Source]

    @property
    def args(self) -> list[Any]:
        """Return the arguments by position: params are looked up, OutputRefs stand for outputs."""
        values: list[Any] = _joined(
            from_wire(list(self.spec.args), None, self._param, is_lenient=True)
        )
        return values

    @property
    def kwargs(self) -> dict[str, Any]:
        """Return the arguments by name, as `args` does."""
        values: dict[str, Any] = _joined(
            from_wire(dict(self.spec.kwargs), None, self._param, is_lenient=True)
        )
        return values

    @property
    def command(self) -> Any:
        """Return the shell command with its references as they were written; None for a
        function."""
        return from_wire(self.spec.command) if self.spec.kind is CallKind.SHELL else None

    def value_of(self, reference: ParamRef) -> Any:
        """Return what a reference to a param led to; None if it led nowhere."""
        return self._param(reference.param, reference.path)

    def differences(self, now: Received) -> dict[str, tuple[Any, Any]]:
        """Return what the two differ in, by argument ("args[0]", its name, or a reference): what it
        was and what it is now, in the wire form."""
        mine, others = self._named(), now._named()
        return {
            name: (mine.get(name), others.get(name))
            for name in {**mine, **others}
            if _text(mine.get(name)) != _text(others.get(name))
            or (name in mine) != (name in others)
        }

    def _named(self) -> dict[str, Any]:
        named: dict[str, Any] = {}
        if self.spec.kind is CallKind.FUNCTION:
            named["its function"] = self.spec.uses
            named |= {
                f"args[{place}]": to_wire(value, typed=True)
                for place, value in enumerate(self.args)
            }
            named |= {name: to_wire(value, typed=True) for name, value in self.kwargs.items()}
        else:
            named["its command"] = self.spec.command
            for reference in references(self.command):
                if isinstance(reference, ParamRef):
                    named[written(reference)] = to_wire(self.value_of(reference), typed=True)
        for source in self.sources.values():
            named[written(OutputRef(source.step))] = source.attempt
        return named

    def _param(self, name: str, path: tuple[str | int, ...]) -> Any:
        value = from_wire(self.params_wire.get(name), is_lenient=True)
        for part in path:
            try:
                value = value[part]
            except (LookupError, TypeError):
                return None
        return value


def _joined(value: Any) -> Any:
    """Return the value with texts for those templates in it that hold no output."""
    if isinstance(value, Template):
        has_output = any(isinstance(part, OutputRef) for part in value.parts)
        parts = [part if isinstance(part, OutputRef) else str(part) for part in value.parts]
        return Template(tuple(parts)) if has_output else "".join(map(str, parts))
    if isinstance(value, list | tuple):
        items = [_joined(item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, dict):
        return {key: _joined(item) for key, item in value.items()}
    return value


def reads_of(spec: StepSpec) -> tuple[list[str], list[str]]:
    """Return the steps whose outputs a spec reads, and the params that it reads by reference;
    without repeats."""
    parts = (list(spec.args), dict(spec.kwargs), spec.command)
    read = list(references([from_wire(part, is_lenient=True) for part in parts if part]))
    steps = dict.fromkeys(reference.step for reference in read if isinstance(reference, OutputRef))
    return list(steps), list(
        dict.fromkeys(reference.param for reference in read if isinstance(reference, ParamRef))
    )


def check_received(
    events: Sequence[Event], specs: Mapping[str, StepSpec], params: Mapping[str, Any], past: Past
) -> Iterable[str]:
    """Return a sentence for each thing that the record does not know of what its attempts were
    given.

    `specs` and `params` are those of now.
    """
    resumes, last = 0, sum(event.kind is EventKind.RUN_RESUMED for event in events)
    for number in sorted({*past.params, *(n for texts in past.specs.values() for n in texts)}):
        if not 1 <= number <= last:
            yield (
                f"the record keeps what resume {number} replaced, but the run was resumed {last}"
                " times"
            )
    for event in events:
        if event.kind is EventKind.RUN_RESUMED:
            resumes += 1
            before, after = (_or(past.params_at(at), params) for at in (resumes - 1, resumes))
            yield from _check_resume(event, before, after)
        elif event.kind is EventKind.STEP_STARTED and event.step in specs:
            spec = past.spec_at(event.step, resumes) or specs[event.step]
            known = _or(past.params_at(resumes), params)
            named = f"attempt {event.attempt} of step {event.step!r}"
            steps, names = reads_of(spec)
            for name in names:
                if name not in known:
                    yield (
                        f"{named} read param {name!r}, of which the record has no value at that"
                        " time"
                    )
            for source in steps:
                if source not in spec.upstream:
                    yield f"{named} read the output of {source!r}, for which it did not wait"


def _check_resume(
    event: Event, before: Mapping[str, Any], after: Mapping[str, Any]
) -> Iterable[str]:
    changed = event.detail.params if isinstance(event.detail, Resumed) else {}
    for name in {**before, **after, **changed}:
        is_changed = name not in before or _text(before[name]) != _text(after.get(name))
        if is_changed and (name not in changed or _text(changed[name]) != _text(after.get(name))):
            yield (
                f"param {name!r} is another one since run.resumed (event {event.id}), which does"
                " not say so"
            )
        elif name in changed and not is_changed:
            yield (
                f"run.resumed (event {event.id}) says that param {name!r} changed, but the record"
                " has it unchanged"
            )


def _or(then: dict[str, Any] | None, now: Mapping[str, Any]) -> Mapping[str, Any]:
    return now if then is None else then


def _text(wire: Any) -> str:
    return json.dumps(wire, sort_keys=True)
