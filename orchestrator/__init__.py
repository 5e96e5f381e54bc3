"""Machine-learning pipelines on Celery and Redis: the names with which a pipeline and its steps are
written, and those with which a program runs them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.definition.running import set_local_runner

if TYPE_CHECKING:
    from orchestrator.attempt_context import StopRequested, context
    from orchestrator.definition.builder import PipelineBuilder
    from orchestrator.definition.pipeline import Pipeline
    from orchestrator.definition.pipelines import pipeline
    from orchestrator.definition.secrets import Secret
    from orchestrator.definition.steps import step
    from orchestrator.errors import PipelineInvalid, RunFailed
    from orchestrator.handles.entrance import list_runs, open_run, run, submit
    from orchestrator.handles.place import close
    from orchestrator.handles.run import Run

__all__ = [
    "Pipeline",
    "PipelineBuilder",
    "PipelineInvalid",
    "Run",
    "RunFailed",
    "Secret",
    "StopRequested",
    "close",
    "context",
    "list_runs",
    "open_run",
    "pipeline",
    "run",
    "step",
    "submit",
]

# Each name is loaded when it is asked for: definitions need pydantic, what runs pipelines needs
# Redis and Celery, and a command that only looks at runs needs neither definitions nor Celery.
_HOMES = {
    "Pipeline": "definition.pipeline",
    "PipelineBuilder": "definition.builder",
    "PipelineInvalid": "errors",
    "Run": "handles.run",
    "RunFailed": "errors",
    "Secret": "definition.secrets",
    "StopRequested": "attempt_context",
    "close": "handles.place",
    "context": "attempt_context",
    "list_runs": "handles.entrance",
    "open_run": "handles.entrance",
    "pipeline": "definition.pipelines",
    "run": "handles.entrance",
    "step": "definition.steps",
    "submit": "handles.entrance",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"orchestrator.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def _run_local(*given: Any) -> Any:
    from orchestrator.handles.local_run import run_local

    return run_local(*given)


set_local_runner(_run_local)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
