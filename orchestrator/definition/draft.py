"""A pipeline half written: what the decorators, the builder and YAML fill and the checks read."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.definition.arguments import ArgumentList, argument_list, return_type
from orchestrator.definition.callables import function_name, resolve_function
from orchestrator.definition.options import StepOptions
from orchestrator.definition.pipeline import OutputRef, ParamRef, ShellCall
from orchestrator.errors import FunctionNotFound


@dataclass(frozen=True, slots=True)
class CallTarget:
    """A function that steps call, looked at once. `fault` says why it cannot be reached, if so."""

    uses: str
    takes: ArgumentList | None = None
    returns: Any = None
    fault: str = ""


@dataclass(frozen=True, slots=True)
class DraftCall:
    """A call whose arguments have a JSON form and hold references in place of placeholders."""

    target: CallTarget
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


@dataclass(slots=True)
class DraftStep:
    """A step half written. `call` is None when it has none that can be named; `reads` are its
    references."""

    name: str
    call: DraftCall | ShellCall | None
    reads: tuple[OutputRef | ParamRef, ...]
    needs: list[str]
    options: StepOptions

    @property
    def upstream(self) -> tuple[str, ...]:
        """Return what the step waits for: first what it reads, then the rest, without repeats."""
        data = [ref.step for ref in self.reads if isinstance(ref, OutputRef)]
        return tuple(dict.fromkeys(data + self.needs)) if data or self.needs else ()


@dataclass
class Draft:
    """All that is known of a pipeline before it is checked; `faults` were met while it was written.

    `exception_classes` are names that came from classes, and so need not be looked up.
    """

    name: str
    steps: dict[str, DraftStep] = field(default_factory=dict)
    exception_classes: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)


def look_at(function: Callable[..., Any] | str) -> CallTarget:
    """Return what the checks need to know of a function, or of a "module:function", which is
    imported."""
    try:
        uses = function if isinstance(function, str) else function_name(function)
    except FunctionNotFound as error:
        return CallTarget(getattr(function, "__name__", repr(function)), fault=str(error))
    try:
        found = resolve_function(uses) if isinstance(function, str) else function
    except FunctionNotFound as error:
        return CallTarget(uses, fault=f"{uses!r} cannot be used: {error}")
    if kind := _deferred_kind(found):
        return CallTarget(
            uses, fault=f"{uses!r} is {kind}; a step is a plain function that returns its value."
        )
    return CallTarget(uses, argument_list(found), return_type(found))


def _deferred_kind(function: Callable[..., Any]) -> str:
    """Return what a function is whose call only gives something yet to be run, as "async"; else an
    empty text.

    Partials are looked into. A plain function around an async one is judged by itself: it may well
    run the other.
    """
    called: Any = function
    while isinstance(called, functools.partial):
        called = called.func
    if not (inspect.isroutine(called) or inspect.isclass(called)):
        called = type(called).__call__  # an object that can be called
    if inspect.isasyncgenfunction(called):
        return "an async generator"
    if inspect.iscoroutinefunction(called):
        return "async"
    return "a generator" if inspect.isgeneratorfunction(called) else ""
