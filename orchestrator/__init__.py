"""Machine-learning pipelines on Celery and Redis: the names with which a pipeline is written."""

from orchestrator.definition.builder import PipelineBuilder
from orchestrator.definition.faults import PipelineInvalid
from orchestrator.definition.model import Pipeline
from orchestrator.definition.pipelines import pipeline
from orchestrator.definition.steps import step

__all__ = ["Pipeline", "PipelineBuilder", "PipelineInvalid", "pipeline", "step"]
