"""`@pipeline`: a function that calls steps, and so describes a pipeline."""

from __future__ import annotations

import functools
import inspect
import os
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, cast, overload

from orchestrator.definition.builder import PipelineBuilder, checked_pipeline_options
from orchestrator.definition.callables import NoStep, import_path
from orchestrator.definition.params import (
    OpenValue,
    Param,
    bind_params,
    params_of_function,
    recorded_params,
)
from orchestrator.definition.pipeline import Pipeline
from orchestrator.definition.placeholder import OpenPlaceholder, SecretPlaceholder, site_being_built
from orchestrator.definition.running import RunsLocally
from orchestrator.definition.secrets import SecretValue
from orchestrator.errors import OrchestratorError, PipelineInvalid, PipelineMisuse

_PACKAGE = str(Path(__file__).resolve().parent)


class PipelineFunction(NoStep, RunsLocally):
    """A function whose calls of steps make a pipeline, and whose parameters are its params."""

    hint = (
        "Pipelines do not nest: let both call the same steps, or a plain function that calls them."
    )

    def __init__(
        self,
        function: Callable[..., object],
        name: str | None = None,
        description: str | None = None,
        defaults: Mapping[str, Any] | None = None,
        deadline: float | None = None,
        alerts: Sequence[str] = (),
    ) -> None:
        functools.update_wrapper(cast(Any, self), function)
        self.function = function
        self.name = name if name is not None else function.__name__
        first_paragraph = (inspect.getdoc(function) or "").split("\n\n")[0]
        self.description = (
            description if description is not None else " ".join(first_paragraph.split())
        )
        self._defaults = dict(defaults or {})
        self._deadline, self._alerts = deadline, alerts

    def __call__(self, *args: object, **kwargs: object) -> NoReturn:
        """Refuse: a pipeline is run by a command, and is not a part of another one."""
        if site_being_built.get() is None:
            raise PipelineMisuse(
                f"pipeline {self.name!r} is not called but run: orchestrator run FILE:{self.name}; "
                "build() gives it checked, without running it."
            )
        raise PipelineMisuse(
            f"pipeline {self.name!r} is called inside of another pipeline. {self.hint}"
        )

    @property
    def params(self) -> Mapping[str, Param]:
        """Return the declared params, by name, in the order of the signature."""
        return self._declared[0]

    @property
    def import_path(self) -> str | None:
        """Return the folder from which workers import the module; None when it is installed."""
        module_globals = getattr(self.function, "__globals__", {})
        return import_path(
            module_globals.get("__file__"), module_globals.get("__name__") == "__main__"
        )

    def build(
        self,
        params: Mapping[str, Any] | None = None,
        *,
        pools: Collection[str] | None = None,
        **more: Any,
    ) -> Pipeline:
        """Return the checked pipeline for these params, which may be keywords, too. Raises
        PipelineInvalid.

        The function is called only when all params are right, since it may decide by their values.
        """
        declared, faults = self._declared
        given = {**(params or {}), **more} if more else params or {}
        values, value_faults = bind_params(declared, given)
        if faults or value_faults:
            _, option_faults = checked_pipeline_options(self._deadline, self._alerts)
            raise PipelineInvalid(self.name, [*option_faults, *faults, *value_faults])
        # as they are now: the function may change what it is given
        recorded, _ = recorded_params(values)
        builder = PipelineBuilder(
            self.name,
            self.description,
            declared,
            defaults=self._defaults,
            deadline=self._deadline,
            alerts=self._alerts,
        )
        builder.import_path = self.import_path
        token = site_being_built.set(builder)
        try:
            self._call(values)
        except PipelineInvalid:
            raise
        except (Exception, SystemExit) as error:
            builder.add_fault(_error_text(error, self.function.__qualname__))
            builder.build(recorded, pools=pools)
            raise AssertionError("a pipeline with a fault was built") from error
        finally:
            site_being_built.reset(token)
        return builder.build(recorded, pools=pools)

    @functools.cached_property
    def _declared(self) -> tuple[dict[str, Param], list[str]]:
        return params_of_function(self.function)

    def _call(self, values: Mapping[str, Any]) -> None:
        positional_only = [
            name
            for name, parameter in inspect.signature(self.function).parameters.items()
            if parameter.kind is parameter.POSITIONAL_ONLY
        ]
        given = {name: _stand_in(name, value) for name, value in values.items()}
        named = {name: value for name, value in given.items() if name not in positional_only}
        self.function(*[given[name] for name in positional_only], **named)

    def __repr__(self) -> str:
        return (
            f"<pipeline {self.name!r} of {self.function.__module__}:{self.function.__qualname__}>"
        )


@overload
def pipeline(function: Callable[..., object], /) -> PipelineFunction: ...


@overload
def pipeline(
    *,
    name: str | None = None,
    description: str | None = None,
    defaults: Mapping[str, Any] | None = None,
    deadline: float | None = None,
    alerts: Sequence[str] = (),
) -> Callable[[Callable[..., object]], PipelineFunction]: ...


def pipeline(
    function: Callable[..., object] | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    defaults: Mapping[str, Any] | None = None,
    deadline: float | None = None,
    alerts: Sequence[str] = (),
) -> PipelineFunction | Callable[[Callable[..., object]], PipelineFunction]:
    """Let a function describe a pipeline: `@pipeline`, or `@pipeline(name="churn",
    defaults={"retries": 2})`.

    Its parameters are the params, typed by their annotations; the description is its docstring
    unless given. `defaults` are options for every step. `deadline` is the seconds that a run may
    take, `alerts` are Apprise URLs that get an alert when it fails.
    """

    def wrapped(function: Callable[..., object]) -> PipelineFunction:
        return PipelineFunction(function, name, description, defaults, deadline, alerts)

    return wrapped if function is None else wrapped(function)


def _stand_in(name: str, value: Any) -> Any:
    """Return what the user's function gets for a param: its value, unless nobody may know it."""
    if isinstance(value, SecretValue):
        return SecretPlaceholder(name)
    return OpenPlaceholder(name) if isinstance(value, OpenValue) else value


def _error_text(error: BaseException, function: str) -> str:
    """Return a sentence for what the user's function raised, with the last line of theirs that was
    running."""
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(_PACKAGE)
    ]
    place = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    if isinstance(error, OrchestratorError):
        return f"{error}{place}"
    return f"function {function!r} raised {type(error).__name__}: {error}{place}"
