"""The checks of a whole pipeline: every fault is found, none stops the others."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from orchestrator.definition.callables import class_name, resolve_exception
from orchestrator.definition.draft import Draft, DraftCall, DraftStep
from orchestrator.definition.loops import find_loops
from orchestrator.definition.names import step_name_fault
from orchestrator.definition.options import StepOptions
from orchestrator.definition.params import OpenValue
from orchestrator.definition.pipeline import FunctionCall, OutputRef, ParamRef, ShellCall, Step
from orchestrator.errors import FunctionNotFound, did_you_mean, names_hint

GUESSES_MAX = 50  # a guess looks at every step name; beyond this many faults, they go without


def checked_steps(
    draft: Draft, params: Collection[str], values: Mapping[str, Any], pools: Collection[str] | None
) -> tuple[dict[str, Step], list[str]]:
    """Return the steps of a draft, and a sentence for each fault of theirs; with faults the steps
    are of no use.

    `params` are the declared params, `values` those of them that have a valid value.
    """
    check = _Check(draft, params, values, pools)
    faults: list[str] = []
    steps: dict[str, Step] = {}
    upstreams: dict[str, tuple[str, ...]] = {}
    for name, draft_step in draft.steps.items():
        upstream = upstreams[name] = draft_step.upstream
        faults += check.step_faults(draft_step, upstream)
        call = draft_step.call
        if isinstance(call, DraftCall):
            function_call = FunctionCall(call.target.uses, call.args, call.kwargs)
            steps[name] = Step(name, function_call, upstream, check.options(draft_step.options)[0])
        elif isinstance(call, ShellCall):
            steps[name] = Step(name, call, upstream, check.options(draft_step.options)[0])
    for loop in find_loops(upstreams):
        faults.append(f"steps form a loop: {' -> '.join(loop)}. Remove one of these inputs.")
    return steps, faults


class _Check:
    """One going-over of a draft, with what is worked out once for many steps."""

    def __init__(
        self,
        draft: Draft,
        params: Collection[str],
        values: Mapping[str, Any],
        pools: Collection[str] | None,
    ) -> None:
        self._draft, self._params, self._values, self._pools = draft, params, values, pools
        self._options: dict[int, tuple[StepOptions, list[str]]] = {}
        self._exceptions: dict[str, tuple[str, str]] = {}
        self._guesses_left = GUESSES_MAX

    def step_faults(self, step: DraftStep, upstream: tuple[str, ...]) -> list[str]:
        faults = []
        if name_fault := step_name_fault(step.name):
            faults.append(name_fault)
        faults += self._call_faults(step)
        if step.reads or upstream:
            faults += self._edge_faults(step, upstream)
        faults += [f"step {step.name!r}: {fault}" for fault in self.options(step.options)[1]]
        if step.options.trigger == "one_failed" and not upstream:
            faults.append(
                f"step {step.name!r} has trigger 'one_failed' but waits for no step, so it could"
                " never start."
            )
        return faults

    def _call_faults(self, step: DraftStep) -> list[str]:
        call = step.call
        if not isinstance(call, DraftCall):
            return []
        if call.target.fault:
            return [f"step {step.name!r}: {call.target.fault}"]
        if call.target.takes is None:
            return []
        return call.target.takes.faults(step.name, call.target.uses, len(call.args), call.kwargs)

    def _edge_faults(self, step: DraftStep, upstream: tuple[str, ...]) -> list[str]:
        faults = []
        read = {ref.step for ref in step.reads if isinstance(ref, OutputRef)}
        for name in upstream:
            if name not in self._draft.steps:
                deed = "reads" if name in read else "needs"
                guess = self._guess(name, self._draft.steps)
                faults.append(f"step {step.name!r} {deed} {name!r}, which no step gives.{guess}")
        for ref in dict.fromkeys(ref for ref in step.reads if isinstance(ref, ParamRef)):
            if ref.param not in self._params:
                guess = self._guess(ref.param, self._params)
                faults.append(
                    f"step {step.name!r} reads param {ref.param!r}, which is not declared.{guess}"
                )
            elif ref.param in self._values and (
                hint := _missing_part(self._values[ref.param], ref.path)
            ):
                way = "".join(f"[{part!r}]" for part in ref.path)
                faults.append(
                    f"step {step.name!r} reads {way} of param {ref.param!r}, which has no such"
                    f" part.{hint}"
                )
        return faults

    def options(self, options: StepOptions) -> tuple[StepOptions, list[str]]:
        """Return the options with exceptions by their true names, and their faults; the same object
        is checked once."""
        known = self._options.get(id(options))
        if known is None:
            known = self._options[id(options)] = self._checked_options(options)
        return known

    def _checked_options(self, options: StepOptions) -> tuple[StepOptions, list[str]]:
        faults = []
        if self._pools is not None and options.pool is not None and options.pool not in self._pools:
            known = ", ".join(map(repr, sorted(self._pools))) or "none"
            guess = did_you_mean(options.pool, self._pools)
            faults.append(f"there is no pool {options.pool!r}; there are {known}.{guess}")
        changed = {}
        for option in ("retry_on", "never_retry_on"):
            names = []
            for written in getattr(options, option):
                name, fault = self._exception(written)
                names.append(name)
                if fault:
                    faults.append(f"option {option!r}: {fault}")
            if tuple(names) != getattr(options, option):
                changed[option] = tuple(names)
        return (options.model_copy(update=changed) if changed else options), faults

    def _exception(self, written: str) -> tuple[str, str]:
        """Return the name that the class itself has, which a worker will compare, or why there is
        no such class."""
        if written in self._draft.exception_classes:
            return written, ""
        if written not in self._exceptions:
            try:
                self._exceptions[written] = class_name(resolve_exception(written)), ""
            except FunctionNotFound as error:
                self._exceptions[written] = written, str(error)
        return self._exceptions[written]

    def _guess(self, word: str, known: Collection[str]) -> str:
        self._guesses_left -= 1
        return names_hint(word, known) if self._guesses_left >= 0 else ""


def _missing_part(value: Any, path: tuple[str | int, ...]) -> str:
    """Return which parts there are where the path ends too early, "" if it does not."""
    if isinstance(value, OpenValue):
        return ""
    for part in path:
        try:
            value = value[part]
        except (LookupError, TypeError):
            if isinstance(value, Mapping):
                return names_hint(str(part), map(str, value))
            count = f" with {len(value)} elements" if isinstance(value, list | tuple) else ""
            return f" It is of type {type(value).__name__}{count}."
    return ""
