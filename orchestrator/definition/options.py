"""The options of a step and of a whole pipeline, the same for decorators, the builder and YAML."""

from __future__ import annotations

from typing import Annotated, Literal, TypedDict

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.definition.sizes import Size

ExceptionName = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*(:[A-Za-z_][\w.]*)?$")]
AlertUrl = Annotated[str, Field(strict=True, pattern=r"\S")]


class StepOptions(BaseModel):
    """How a step is run. Times are seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    pool: str | None = Field(
        None, description="Pool of workers that runs the step; the default pool if unset."
    )
    priority: int = Field(
        5, ge=0, le=9, description="0 is taken first, 9 last (as Celery on Redis)."
    )
    timeout: float | None = Field(None, gt=0, description="Seconds that one attempt may take.")
    queue_timeout: float | None = Field(
        None,
        gt=0,
        description="Seconds that an attempt may wait for a worker; then the step fails.",
    )
    lost_attempts: int = Field(
        3,
        ge=1,
        le=1000,
        description=(
            "Attempts that may be lost (process killed, host gone) until the step fails; 1 replaces"
            " none."
        ),
    )
    retries: int = Field(0, ge=0, le=1000, description="Attempts after the first one.")
    retry_delay: float = Field(1.0, ge=0, description="Seconds before the first retry.")
    retry_backoff: float = Field(
        2.0, ge=1, description="Factor by which the delay grows at each retry; 1 keeps it."
    )
    retry_max_delay: float = Field(600.0, ge=0, description="Seconds that no retry delay exceeds.")
    retry_jitter: float = Field(
        0.1, ge=0, le=1, description="Share of the delay that is random: 0.1 gives 90 % to 110 %."
    )
    retry_on: tuple[ExceptionName, ...] = Field(
        (),
        strict=False,
        description=(
            "Exception classes that are retried (subclasses too); empty means every exception."
        ),
    )
    never_retry_on: tuple[ExceptionName, ...] = Field(
        (),
        strict=False,
        description="Exception classes that fail the step at once; stronger than retry_on.",
    )
    trigger: Literal["all_success", "all_done", "one_failed", "none_failed", "always"] = Field(
        "all_success", description="When the step may start, judged from how its upstreams ended."
    )
    threads: int | None = Field(
        None,
        ge=1,
        le=100_000,
        description=(
            "Most threads that numeric libraries use in the step; the slot's share of the cores if"
            " unset."
        ),
    )
    memory: Size | None = Field(
        None,
        description=(
            "Memory that an attempt may hold with all that it starts, in bytes or as '2GB'; more"
            " fails it."
        ),
    )
    description: str = Field("", description="What the step does, for people.")


class PipelineOptions(BaseModel):
    """How a run of the pipeline goes as a whole."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    deadline: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Seconds that a run may take from its start or its resume; then it fails.",
    )
    alerts: tuple[AlertUrl, ...] = Field(
        (),
        strict=False,
        repr=False,
        description=(
            "Apprise URLs that get an alert when a run fails, beside those of the settings; "
            "$NAME in one is taken from the environment of the process that sends."
        ),
    )


class OptionValues(TypedDict, total=False):
    """The same options as keywords in Python, where exception classes may stand for their names."""

    pool: str | None
    priority: int
    timeout: float | None
    queue_timeout: float | None
    lost_attempts: int
    retries: int
    retry_delay: float
    retry_backoff: float
    retry_max_delay: float
    retry_jitter: float
    retry_on: (
        type[BaseException]
        | tuple[type[BaseException] | str, ...]
        | list[type[BaseException] | str]
    )
    never_retry_on: (
        type[BaseException]
        | tuple[type[BaseException] | str, ...]
        | list[type[BaseException] | str]
    )
    trigger: Literal["all_success", "all_done", "one_failed", "none_failed", "always"]
    threads: int | None
    memory: int | str | None
    description: str
