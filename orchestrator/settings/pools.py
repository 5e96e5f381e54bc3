"""The settings of one pool."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
)

from orchestrator.cores import available_cores


class PoolSettings(BaseModel):
    """One kind of worker machine and the queue it reads."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    queue: str | None = Field(
        None, description="Queue that the pool's workers read; `<key_prefix>.<pool>` if unset."
    )
    concurrency: int | None = Field(
        None, ge=1, description="Steps one worker runs at a time; its CPU cores if unset."
    )
    pool_type: Literal["prefork", "threads", "solo"] = Field(
        "prefork",
        description="How Celery runs steps: prefork (processes), threads or solo (one, in line).",
    )
    threads: int | None = Field(
        None,
        ge=1,
        description="Most threads of numeric libraries in a step; its share of the cores if unset.",
    )
    celery_app: str | None = Field(
        None,
        pattern=r"^[\w.]+:[\w.]+$",
        description=(
            "Your Celery app, as 'proj.celery:app', which is the current one in the pool's steps."
        ),
    )
    server_in_steps: bool = Field(
        False,
        description=(
            "Whether steps get ORCHESTRATOR_REDIS_URL and may use the orchestrator's own commands."
        ),
    )
    description: str = Field("", description="What the pool is for, for people.")

    @property
    def slots(self) -> int:
        """Steps that one worker of the pool runs at a time on this machine."""
        return self.concurrency or available_cores()
