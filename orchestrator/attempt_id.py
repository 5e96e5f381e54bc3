"""What names an attempt: in the ledger, in messages, in artifacts, to the processes of a worker."""

from __future__ import annotations

from typing import NamedTuple


class AttemptId(NamedTuple):
    """One attempt of a step of a run; `attempt` counts from 1."""

    run_id: str
    step: str
    attempt: int
