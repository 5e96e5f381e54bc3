"""`@step`: a plain function that may also be called while a pipeline is being built."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Generic, ParamSpec, TypeVar, Unpack, cast, overload

from orchestrator.definition.callables import WrappedFunction
from orchestrator.definition.options import OptionValues
from orchestrator.definition.placeholder import Placeholder, site_being_built

P = ParamSpec("P")
R = TypeVar("R")


class StepFunction(WrappedFunction, Generic[P, R]):
    """A function with step options.

    Called outside a pipeline it is the function. Called while a pipeline is being built it adds a
    step and gives a placeholder for the output. `function` is the function itself.
    """

    function: Callable[P, R]

    def __init__(
        self,
        function: Callable[P, R],
        options: Mapping[str, Any],
        name: str | None = None,
        needs: tuple[Placeholder | str, ...] = (),
    ) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.step_options, self.step_name, self.step_needs = dict(options), name, needs

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        site = site_being_built.get()
        if site is None:
            return self.function(*args, **kwargs)
        return cast(R, site.add_call(self, args, kwargs))

    def options(
        self, *, name: str | None = None, **options: Unpack[OptionValues]
    ) -> StepFunction[P, R]:
        """Return a copy with other options, and the name of the step that the next call adds."""
        return StepFunction(
            self.function, {**self.step_options, **options}, name or self.step_name, self.step_needs
        )

    def after(self, *others: object) -> StepFunction[P, R]:
        """Return a copy whose next call waits for others without reading their outputs.

        `others` are outputs of steps, or names of steps.
        """
        needs = cast(tuple[Placeholder | str, ...], others)
        return StepFunction(
            self.function, self.step_options, self.step_name, (*self.step_needs, *needs)
        )

    def __repr__(self) -> str:
        return f"<step {self.function.__module__}:{self.function.__qualname__}>"


@overload
def step(function: Callable[P, R], /) -> StepFunction[P, R]: ...


@overload
def step(**options: Unpack[OptionValues]) -> Callable[[Callable[P, R]], StepFunction[P, R]]: ...


def step(
    function: Callable[P, R] | None = None, /, **options: Unpack[OptionValues]
) -> StepFunction[P, R] | Callable[[Callable[P, R]], StepFunction[P, R]]:
    """Let a function be a step: `@step`, or `@step(pool="gpu", retries=3)`. Its options are those
    of StepOptions.

    Wrong options are faults of the pipeline that uses the step, found when that is built.
    """

    def wrapped(function: Callable[P, R]) -> StepFunction[P, R]:
        return StepFunction(function, options)

    return wrapped if function is None else wrapped(function)
