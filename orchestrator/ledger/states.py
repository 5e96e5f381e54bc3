"""The closed sets of the ledger. The files in `lua/` know the same words; a test proves the two
equal."""

from __future__ import annotations

from enum import StrEnum


class RunState(StrEnum):
    QUEUED = "queued"  # submitted, no step has started
    RUNNING = "running"
    RESUMING = "resuming"  # a large run whose steps are being reset, a page in each call
    CANCELLING = "cancelling"  # a large run whose steps are being cancelled, a page in each call
    SUCCEEDED = "succeeded"
    FAILED = "failed"  # at least one step failed for good
    CANCELLED = "cancelled"

    @property
    def is_ended(self) -> bool:
        return self in (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED)


class StepState(StrEnum):
    WAITING = "waiting"  # for its upstreams
    QUEUED = "queued"  # for a worker
    RUNNING = "running"
    RETRYING = "retrying"  # for its due time
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"  # its trigger rule cannot come true, and nothing failed
    UPSTREAM_FAILED = "upstream_failed"

    @property
    def is_ended(self) -> bool:
        return self in ENDED_STEP_STATES


ENDED_STEP_STATES = frozenset(
    {
        StepState.SUCCEEDED,
        StepState.FAILED,
        StepState.CANCELLED,
        StepState.SKIPPED,
        StepState.UPSTREAM_FAILED,
    }
)

STEP_TRANSITIONS: dict[StepState, frozenset[StepState]] = {
    StepState.WAITING: frozenset(
        {StepState.QUEUED, StepState.UPSTREAM_FAILED, StepState.SKIPPED, StepState.CANCELLED}
    ),
    # queued -> failed: it waited too long; queued -> retrying or failed: its process was ended
    # before the claim
    StepState.QUEUED: frozenset(
        {StepState.RUNNING, StepState.FAILED, StepState.RETRYING, StepState.CANCELLED}
    ),
    # running -> queued: its attempt was lost, or handed over
    StepState.RUNNING: frozenset(
        {
            StepState.SUCCEEDED,
            StepState.FAILED,
            StepState.RETRYING,
            StepState.QUEUED,
            StepState.CANCELLED,
        }
    ),
    StepState.RETRYING: frozenset({StepState.QUEUED, StepState.CANCELLED}),
    **{state: frozenset() for state in ENDED_STEP_STATES},
}


# Changes that no event of the step stands for: an output taken over from another run, and a resume.
SILENT_TRANSITIONS: dict[StepState, frozenset[StepState]] = {
    StepState.WAITING: frozenset({StepState.SUCCEEDED}),
    **{state: frozenset({StepState.WAITING}) for state in ENDED_STEP_STATES},
}


class Outcome(StrEnum):
    """How an attempt ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    LOST = "lost"  # its process died, or nobody heard of it any more
    HANDED_OVER = "handed_over"  # its worker had to end; another one goes on
    # its worker could not do it, for a reason that is not a fault of the step; it is tried later
    PUT_BACK = "put_back"
    CANCELLED = "cancelled"
