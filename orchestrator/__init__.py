"""Machine-learning pipelines on Celery and Redis: the names with which a pipeline and its steps are written."""

from orchestrator.definition.builder import PipelineBuilder
from orchestrator.definition.context import StopRequested, context
from orchestrator.definition.faults import PipelineInvalid
from orchestrator.definition.model import Pipeline
from orchestrator.definition.pipelines import pipeline
from orchestrator.definition.secrets import Secret
from orchestrator.definition.steps import step

__all__ = ["Pipeline", "PipelineBuilder", "PipelineInvalid", "Secret", "StopRequested", "context", "pipeline", "step"]
