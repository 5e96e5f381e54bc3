"""Runs that failed, and what a resume of them answers."""

from __future__ import annotations

from typing import Any

from orchestrator.attempt_id import AttemptId
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.staging import staged_steps
from orchestrator.ledger.states import Outcome
from orchestrator.ledger.values import (
    Chain,
    Commit,
)
from tests.support.runs import SETTINGS, Graph, begin, heads, run_state, start_graph

FAILED, SUCCEEDED = Outcome.FAILED, Outcome.SUCCEEDED


UPSTREAM = {"a": "", "b": "", "c": "a b", "d": "c"}


def end(
    ledger: Ledger, run_id: str, step: str, attempt: int = 1, outcome: Outcome = SUCCEEDED
) -> list[str]:
    """Run an attempt and give the heads of what that makes ready."""
    token = begin(ledger, run_id, step, attempt)
    answer = ledger.commit(
        AttemptId(run_id, step, attempt), token, "w", outcome, output=f'"{step}{attempt}"'
    )
    assert isinstance(answer, Commit)
    return heads(answer.ready)


def failed_run(ledger: Ledger, **options: Any) -> str:
    """Return a run in which a has succeeded and b has failed, so that c and d did not run."""
    run_id = start_graph(ledger, UPSTREAM, {}, options)
    end(ledger, run_id, "a")
    end(ledger, run_id, "b", outcome=FAILED)
    assert run_state(ledger, run_id) == "failed"
    return run_id


def links(chains: tuple[Chain, ...]) -> list[list[tuple[str, int]]]:
    return [[link[:2] for link in chain.links] for chain in chains]


def resume_as(
    ledger: Ledger, run_id: str, other: Graph, kept: str, gone: str = "", again: str = ""
) -> tuple[Chain, ...]:
    plan = other.plan()
    resets = [
        (step, sum(up in kept.split() for up in plan.upstream[step]))
        for step in other.upstream
        if step not in kept.split()
    ]
    staged = list(staged_steps(plan, SETTINGS))
    return ledger.resume(run_id, resets, again=again.split(), gone=gone.split(), staged=staged)
