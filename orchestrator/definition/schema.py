"""The JSON Schema of a pipeline file, for editors; made from the models that check the file."""

from __future__ import annotations

from typing import Any

from orchestrator.definition.document import PipelineDocument


def pipeline_file_schema() -> dict[str, Any]:
    """Give the JSON Schema (draft 2020-12) of a pipeline file."""
    schema = PipelineDocument.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Pipeline file"}
