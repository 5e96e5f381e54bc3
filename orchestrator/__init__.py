"""Machine-learning pipelines on Celery and Redis: the names with which a pipeline and its steps are
written, and those with which a program runs them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.attempt_context import StopRequested, context
from orchestrator.definition.builder import PipelineBuilder
from orchestrator.definition.pipeline import Pipeline
from orchestrator.definition.pipelines import pipeline
from orchestrator.definition.running import set_local_runner
from orchestrator.definition.secrets import Secret
from orchestrator.definition.steps import step
from orchestrator.errors import PipelineInvalid, RunFailed

if TYPE_CHECKING:
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

# The API that runs pipelines needs Redis and Celery: it is loaded when asked for, not by each
# worker.
_LATE = {
    "Run": "orchestrator.handles.run",
    "close": "orchestrator.handles.place",
    "list_runs": "orchestrator.handles.entrance",
    "open_run": "orchestrator.handles.entrance",
    "run": "orchestrator.handles.entrance",
    "submit": "orchestrator.handles.entrance",
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_LATE[name]), name)
    globals()[name] = value
    return value


def _run_local(*given: Any) -> Any:
    from orchestrator.handles.local_run import run_local

    return run_local(*given)


set_local_runner(_run_local)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
