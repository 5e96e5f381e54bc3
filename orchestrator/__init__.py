"""Machine-learning pipelines on Celery and Redis: the names with which a pipeline and its steps are
written."""

from orchestrator.attempt_context import StopRequested, context
from orchestrator.definition.builder import PipelineBuilder
from orchestrator.definition.pipeline import Pipeline
from orchestrator.definition.pipelines import pipeline
from orchestrator.definition.secrets import Secret
from orchestrator.definition.steps import step
from orchestrator.errors import PipelineInvalid

__all__ = [
    "Pipeline",
    "PipelineBuilder",
    "PipelineInvalid",
    "Secret",
    "StopRequested",
    "context",
    "pipeline",
    "step",
]
