"""Pipelines written by a program: steps added one by one, in any order, checked together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any

from pydantic import ValidationError

from orchestrator.definition.callables import WrappedFunction, class_name, import_path
from orchestrator.definition.checks import checked_steps
from orchestrator.definition.draft import CallTarget, Draft, DraftCall, DraftStep, look_at
from orchestrator.definition.names import param_name_fault, pipeline_name_fault
from orchestrator.definition.options import PipelineOptions, StepOptions
from orchestrator.definition.params import (
    Param,
    bind_params,
    inferred_param,
    is_kept,
    recorded_params,
)
from orchestrator.definition.pipeline import OutputRef, ParamRef, Pipeline, ShellCall, Template
from orchestrator.definition.placeholder import Placeholder, needed_step, without_placeholders
from orchestrator.definition.references import parse_command
from orchestrator.definition.running import RunsLocally
from orchestrator.definition.steps import StepFunction
from orchestrator.definition.validation import validation_faults
from orchestrator.definition.wire import NotWireable, from_wire, references, to_wire
from orchestrator.errors import PipelineInvalid, PlaceholderMisuse

Needs = str | Placeholder | Iterable[str | Placeholder]
_PLAIN = frozenset((str, int, bool, type(None)))


def checked_pipeline_options(deadline: object, alerts: object) -> tuple[PipelineOptions, list[str]]:
    """Return the options of a whole pipeline, and a sentence for each that is wrong; with faults
    they are of no use."""
    try:
        return PipelineOptions.model_validate({"deadline": deadline, "alerts": alerts}), []
    except ValidationError as error:
        return PipelineOptions(), validation_faults(
            "the pipeline", "option", error, PipelineOptions.model_fields
        )


class PipelineBuilder(RunsLocally):
    """A pipeline under construction.

    `params` are plain values, or `Param`s where a type, choices or no default are wanted; steps
    read them by `ParamRef`, and `build` may be given others. `defaults` are options for every step;
    `deadline` and `alerts` are those of PipelineOptions. Wrong names, options and arguments raise
    nothing here: `build` reports all of them at once.
    """

    def __init__(
        self,
        name: str,
        description: str = "",
        params: Mapping[str, Any] | None = None,
        *,
        defaults: Mapping[str, Any] | None = None,
        deadline: float | None = None,
        alerts: Sequence[str] = (),
    ) -> None:
        self.name, self.description = name, description
        self._pipeline_options, self._pipeline_faults = checked_pipeline_options(deadline, alerts)
        self.params: Mapping[str, Param] = {
            key: value if isinstance(value, Param) else inferred_param(key, value)
            for key, value in (params or {}).items()
        }
        self.import_path: str | None = None
        self._draft = Draft(name)
        self._commands: dict[str, str] = {}
        self._twice: dict[str, None] = {}
        self._auto_counts: dict[str, int] = {}
        self._targets: dict[Any, CallTarget] = {}
        self._options: dict[Any, StepOptions] = {}
        self._defaults = self._named_exceptions(defaults or {})

    def add(
        self,
        name: str,
        function: Callable[..., Any] | WrappedFunction | str | None = None,
        *,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        run: str | Template | None = None,
        needs: Needs = (),
        **options: Any,
    ) -> Placeholder:
        """Add a step and give the placeholder of its output.

        It calls `function` (a function, a step or "module:function") or runs the shell command
        `run`, in which `${{ params.x }}` and `${{ steps.a.output }}` are read as in YAML. `needs`
        are steps to wait for.
        """
        if not isinstance(name, str):
            raise TypeError(f"step name {name!r} is not text")
        own_needs: list[str | Placeholder] = (
            [needs] if isinstance(needs, str | Placeholder) else list(needs)
        )
        if isinstance(function, StepFunction):
            options = {**function.step_options, **options}
            own_needs = [*function.step_needs, *own_needs]
        target = self._target(function) if function is not None else None
        step = DraftStep(name, None, (), [], self._checked_options(name, options))
        for need in own_needs:
            try:
                step.needs.append(needed_step(self, need))
            except PlaceholderMisuse as error:
                self.add_fault(f"step {name!r}: {error}")
        if target is not None:
            self._set_call(step, target, tuple(args), dict(kwargs or {}))
        if name in self._draft.steps:
            self._twice[name] = None
        else:
            self._draft.steps[name] = step
            self._set_command(step, run, bool(args or kwargs))
        return Placeholder(self, OutputRef(name), target.returns if target else None)

    def add_call(
        self, step: WrappedFunction, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Placeholder:
        """Add a step for the call of a step function, under its name or the next free one."""
        name = step.step_name if isinstance(step, StepFunction) else None
        return self.add(
            name or self._free_name(step.function.__name__), step, args=args, kwargs=kwargs
        )

    def add_need(self, step: str, other: str) -> None:
        """Let a step wait for another one."""
        self._draft.steps[step].needs.append(other)

    def add_fault(self, fault: str) -> None:
        """Note a fault that the writer of the pipeline met; `build` reports it with the others."""
        self._draft.faults.append(fault)

    def build(
        self,
        params: Mapping[str, Any] | None = None,
        *,
        pools: Collection[str] | None = None,
        **more: Any,
    ) -> Pipeline:
        """Return the checked pipeline for these params, which may be keywords, too. Raises
        PipelineInvalid with every fault.

        `pools` are the pools that there are; None leaves them unchecked.
        """
        faults = [
            fault
            for fault in (pipeline_name_fault(self.name), *map(param_name_fault, self.params))
            if fault
        ]
        given = {**(params or {}), **more} if more else params or {}
        values, param_faults = bind_params(self.params, given)
        recorded, record_faults = recorded_params(values)
        faults += self._pipeline_faults + param_faults + record_faults
        faults += self._unreadable_params(recorded)
        faults += [
            f"step name {name!r} is used twice. Names of steps are unique." for name in self._twice
        ]
        faults += self._draft.faults
        for name, text in self._commands.items():
            run = parse_command(text, self._draft.steps, self.params, faults, f"step {name!r}")
            self._draft.steps[name].call = ShellCall(run)
            self._draft.steps[name].reads = tuple(references(run))
        steps, step_faults = checked_steps(self._draft, self.params, recorded, pools)
        if faults or step_faults:
            raise PipelineInvalid(self.name, dict.fromkeys(faults + step_faults))
        options = self._pipeline_options
        return Pipeline(
            self.name,
            steps,
            recorded,
            self.description,
            self.import_path,
            deadline_s=options.deadline,
            alerts=options.alerts,
        )

    def _unreadable_params(self, values: Mapping[str, Any]) -> Iterator[str]:
        """Return a sentence for each step that would get something else than the value of a param
        that it reads."""
        for step in self._draft.steps.values():
            for name in dict.fromkeys(
                ref.param for ref in step.reads if isinstance(ref, ParamRef) and ref.param in values
            ):
                try:
                    if is_kept(values[name]):
                        continue
                except (NotWireable, RecursionError):
                    continue  # a fault of the param itself
                kind = f"{type(values[name]).__module__}.{type(values[name]).__qualname__}"
                yield (
                    f"step {step.name!r} reads param {name!r}, a {kind}, which has no JSON form."
                    " Use plain values."
                )

    def _set_call(
        self, step: DraftStep, target: CallTarget, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        takes = target.takes
        settled_args = tuple(
            [
                (
                    value
                    if type(value) in _PLAIN
                    else self._settled(
                        step, value, takes.position_name(at) if takes else f"at position {at + 1}"
                    )
                )
                for at, value in enumerate(args)
            ]
        )
        settled = {
            key: value if type(value) in _PLAIN else self._settled(step, value, repr(key))
            for key, value in kwargs.items()
        }
        step.call = DraftCall(target, settled_args, settled)
        step.reads = (*references(settled_args), *references(settled))

    def _set_command(
        self, step: DraftStep, run: str | Template | None, has_arguments: bool
    ) -> None:
        if run is not None and step.call is not None:
            self.add_fault(
                f"step {step.name!r} has both a function (uses) and a command (run). Keep one."
            )
        elif run is None and step.call is None:
            self.add_fault(
                f"step {step.name!r} has neither a function (uses) nor a command (run). Give one."
            )
        elif run is not None:
            if has_arguments:
                self.add_fault(
                    f"step {step.name!r} gives arguments to a command. Write them into 'run'."
                )
            if isinstance(run, str):
                self._commands[step.name] = run
            else:
                step.call, step.reads = ShellCall(run), tuple(references(run))

    def _settled(self, step: DraftStep, value: Any, argument: str) -> Any:
        """Return a copy of the value as a worker will read it, with references for placeholders."""
        try:
            return from_wire(to_wire(without_placeholders(self, value)))
        except NotWireable as error:
            place = f"{argument} of step {step.name!r}" + (
                f" holds at {error.where}" if error.where else " is"
            )
            hint = (
                "Pass str(path)."
                if error.kind.startswith("pathlib.")
                else "Return it from a step instead."
            )
            self.add_fault(f"argument {place} a {error.kind}, which has no JSON form. {hint}")
        except PlaceholderMisuse as error:
            self.add_fault(f"argument {argument} of step {step.name!r}: {error}")
        except RecursionError:
            self.add_fault(
                f"argument {argument} of step {step.name!r} is nested too deeply, or contains"
                " itself."
            )
        return None

    def _target(self, function: Callable[..., Any] | WrappedFunction | str) -> CallTarget:
        if isinstance(function, WrappedFunction):
            function = function.function
        try:
            target = self._targets.get(function)
        except TypeError:  # it cannot be hashed, so it is not a function
            return look_at(function)
        if target is None:
            target = self._targets[function] = look_at(function)
            if self.import_path is None and not isinstance(function, str):
                code_globals = getattr(function, "__globals__", {})
                is_script = code_globals.get("__name__") == "__main__"
                self.import_path = import_path(code_globals.get("__file__"), is_script)
        return target

    def _checked_options(self, name: str, own: Mapping[str, Any]) -> StepOptions:
        """Return the options over the defaults; equal ones share an object. Wrong ones are faults
        and left out."""
        options = {**self._defaults, **self._named_exceptions(own)} if own else self._defaults
        # the type stands in the key because 1, 1.0 and True are equal
        key = tuple((option, type(value), value) for option, value in options.items())
        try:
            shared = self._options.get(key)
        except TypeError:  # a value cannot be hashed, so it is wrong
            shared = None
        if shared is not None:
            return shared
        try:
            checked = self._options[key] = StepOptions.model_validate(options)
        except ValidationError as error:
            known = StepOptions.model_fields
            self._draft.faults += validation_faults(f"step {name!r}", "option", error, known)
            wrong = {str(found["loc"][0]) for found in error.errors()}
            return StepOptions.model_validate({k: v for k, v in options.items() if k not in wrong})
        return checked

    def _named_exceptions(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options with names for exception classes, and tuples for lists."""
        named = dict(options)
        for option, value in options.items():
            if option in ("retry_on", "never_retry_on"):
                items = (value,) if isinstance(value, type) else value
                if isinstance(items, list | tuple):
                    named[option] = tuple(self._exception(item) for item in items)
            elif isinstance(value, Enum):
                named[option] = value.value
        return named

    def _exception(self, item: Any) -> Any:
        if not (isinstance(item, type) and issubclass(item, BaseException)):
            return item
        name = class_name(item)
        self._draft.exception_classes.add(name)
        return name

    def _free_name(self, base: str) -> str:
        count = self._auto_counts.get(base, 0)
        while True:
            count += 1
            name = base if count == 1 else f"{base}-{count}"
            if name not in self._draft.steps:
                self._auto_counts[base] = count
                return name
