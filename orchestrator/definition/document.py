"""A pipeline file (YAML or JSON): its shape, and the pipeline that it describes.

The models below are the one description of the shape: they check files, and editors get the schema
made from them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SkipValidation,
    ValidationError,
    WithJsonSchema,
)

from orchestrator.definition.builder import PipelineBuilder
from orchestrator.definition.names import PARAM_NAME, PIPELINE_NAME, STEP_NAME
from orchestrator.definition.options import PipelineOptions, StepOptions
from orchestrator.definition.params import PLAIN_TYPES, REQUIRED, Param, inferred_param
from orchestrator.definition.pipeline import OutputRef, Pipeline
from orchestrator.definition.references import parse_value
from orchestrator.definition.secrets import SecretMark
from orchestrator.definition.validation import validation_faults
from orchestrator.definition.wire import references

_DECLARATION_KEYS = ("type", "default", "description", "choices", "secret")

OneOrMany = Annotated[
    list[str],
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
PlainDefault = Annotated[
    Any,
    WithJsonSchema(
        {
            "description": (
                "A default value, whose type the param takes; a mapping with one of the keys of a "
                "declaration is a declaration."
            ),
            "anyOf": [
                {"type": ["string", "number", "boolean", "array", "null"]},
                {
                    "type": "object",
                    "not": {"anyOf": [{"required": [key]} for key in _DECLARATION_KEYS]},
                },
            ],
        }
    ),
]


class ParamDocument(BaseModel):
    """A param with its type spelled out. Without a default, every run must give a value."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"anyOf": [{"required": [key]} for key in _DECLARATION_KEYS]},
    )

    type: (
        Literal[
            "str",
            "int",
            "float",
            "bool",
            "list",
            "dict",
            "string",
            "integer",
            "number",
            "boolean",
            "array",
            "object",
        ]
        | None
    ) = Field(None, description="Type of the values; that of the default if unset.")
    default: Any = Field(None, description="Value for runs that give none.")
    description: str = Field("", description="What the param means, for people.")
    choices: list[Any] = Field(
        [], description="The values that are allowed; all of the type if empty."
    )
    secret: bool = Field(
        False,
        description=(
            "Whether the value is text that is kept only while a run goes on, and shown to nobody."
        ),
    )


class StepDocument(StepOptions):
    """A step: a function (`uses`) or a shell command (`run`), what it waits for, and how it is
    run."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["uses"]}, {"required": ["run"]}]}
    )

    uses: str = Field(
        "", description='Function to call, as "module:function".', pattern=r"^[^:]+:[^:]+$"
    )
    run: str = Field(
        "", description="Shell command; references reach it as variables, file(…) as paths."
    )
    args: list[Any] = Field(
        [], description="Arguments by position; texts may hold ${{ }} references."
    )
    with_: dict[str, Any] = Field(
        {}, alias="with", description="Arguments by name; texts may hold ${{ }} references."
    )
    needs: OneOrMany = Field(
        [], description="Steps to wait for, beside those whose outputs are referred to."
    )


class PipelineDocument(PipelineOptions):
    """A pipeline: its params and its steps. Texts may hold `${{ params.x }}` and `${{
    steps.a.output }}`."""

    name: str = Field(
        "", description="Name of the pipeline; that of the file if unset.", pattern=PIPELINE_NAME
    )
    description: str = Field("", description="What the pipeline does, for people.")
    params: dict[str, SkipValidation[ParamDocument] | SkipValidation[PlainDefault]] = Field(
        {},
        description="Params of a run, by name.",
        json_schema_extra={"propertyNames": {"pattern": PARAM_NAME}},
    )
    defaults: SkipValidation[StepOptions] = Field(
        StepOptions(), description="Options for every step."
    )
    steps: dict[str, SkipValidation[StepDocument]] = Field(
        description="The steps, by name, in any order.",
        json_schema_extra={"propertyNames": {"pattern": STEP_NAME}},
    )


class PipelineFile:
    """The pipeline that a file describes. Its faults are kept until `build`, which reports all of
    them at once."""

    def __init__(self, value: Any, default_name: str, faults: Collection[str] = ()) -> None:
        self._faults = list(faults)
        body = self._mapping(value, "the file")
        top = self._sound(
            PipelineDocument, "the file", "key", body, known=PipelineDocument.model_fields
        )
        if value is None and not faults:
            self._faults = ["the file is empty. Give it a mapping with 'steps'."]
        self.name: str = top.get("name") or default_name
        self.description: str = top.get("description", "")
        self.params: Mapping[str, Param] = {
            name: self._param(name, declared)
            for name, declared in (top.get("params") or {}).items()
        }
        self._deadline, self._alerts = top.get("deadline"), top.get("alerts", ())
        self._defaults = self._sound(
            StepOptions,
            "defaults",
            "option",
            self._mapping(top.get("defaults", {}), "defaults"),
            known=StepOptions.model_fields,
        )
        step_keys = [field.alias or key for key, field in StepDocument.model_fields.items()]
        self._steps: dict[str, dict[str, Any]] = {}
        self._without_call: set[str] = set()
        for name, written in top.get("steps", {}).items():
            body = self._mapping(written, f"step {name!r}")
            sound = self._sound(StepDocument, f"step {name!r}", "key", body, known=step_keys)
            if "needs" not in sound and isinstance(needs := body.get("needs"), list):
                # they are checked all the same
                sound["needs"] = [need for need in needs if isinstance(need, str)]
            self._steps[name] = sound
            has_call = "uses" in sound or "run" in sound
            if not has_call and (
                not isinstance(written, dict | None) or "uses" in body or "run" in body
            ):
                self._without_call.add(name)  # its fault is known; that it has neither is none

    def build(
        self, params: Mapping[str, Any] | None = None, *, pools: Collection[str] | None = None
    ) -> Pipeline:
        """Return the checked pipeline with the params bound to it; raises PipelineInvalid with
        every fault."""
        builder = PipelineBuilder(
            self.name,
            self.description,
            self.params,
            defaults=self._defaults,
            deadline=self._deadline,
            alerts=self._alerts,
        )
        for fault in self._faults:
            builder.add_fault(fault)
        for name, step in self._steps.items():
            faults: list[str] = []
            options = {key: value for key, value in step.items() if key in StepOptions.model_fields}
            arguments = parse_value(
                {"args": step.get("args", []), "with": step.get("with", {})},
                self._steps,
                self.params,
                faults,
                f"step {name!r}",
            )
            needs = step.get("needs", [])
            if name in self._without_call:
                read = [ref.step for ref in references(arguments) if isinstance(ref, OutputRef)]
                builder.add(
                    name,
                    run="",
                    needs=[*([needs] if isinstance(needs, str) else needs), *read],
                    **options,
                )
            else:
                builder.add(
                    name,
                    step.get("uses"),
                    args=arguments["args"],
                    kwargs=arguments["with"],
                    run=step.get("run"),
                    needs=needs,
                    **options,
                )
            for fault in faults:
                builder.add_fault(fault)
        return builder.build(params, pools=pools)

    def _mapping(self, value: Any, owner: str) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        if value is None:
            return {}
        self._faults.append(f"{owner} is {value!r}, but must be a mapping.")
        return {}

    def _sound(
        self,
        model: type[BaseModel],
        owner: str,
        noun: str,
        body: dict[str, Any],
        known: Collection[str],
    ) -> dict[str, Any]:
        """Return the valid part of a mapping; the rest becomes faults."""
        try:
            model.model_validate(body)
        except ValidationError as error:
            self._faults += validation_faults(owner, noun, error, known)
            wrong = {found["loc"][0] for found in error.errors(include_url=False)}
            return {key: value for key, value in body.items() if key not in wrong}
        return body

    def _param(self, name: str, declared: Any) -> Param:
        if not (isinstance(declared, dict) and any(key in declared for key in _DECLARATION_KEYS)):
            return inferred_param(name, declared)
        owner, faults_before = f"param {name!r}", len(self._faults)
        body = self._sound(ParamDocument, owner, "key", declared, known=ParamDocument.model_fields)
        default = body.get("default", REQUIRED)
        kind: Any = PLAIN_TYPES.get(body.get("type") or "")
        if kind is None:
            kind = Any if default is REQUIRED else inferred_param(name, default).type
        elif default is None:  # a default of null makes the param optional
            kind = kind | None
        if body.get("secret"):
            secret: Any = Annotated[PLAIN_TYPES.get(body.get("type") or "str", str), SecretMark()]
            kind = secret | None if default is None else secret
        param = Param(
            name, kind, default, body.get("description", ""), tuple(body.get("choices", ()))
        )
        try:
            if fault := param.declaration_fault:
                self._faults.append(fault)
            elif not param.is_required:
                param.read(default)
        except ValueError as error:
            self._faults.append(f"default: {error}")
        if len(self._faults) > faults_before:
            # one that takes every value, so that no other fault follows from this
            return Param(name, Any, None)
        return param


def pipeline_file_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a pipeline file."""
    schema = PipelineDocument.model_json_schema(by_alias=True)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "Pipeline file",
    }
