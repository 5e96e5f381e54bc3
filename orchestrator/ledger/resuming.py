"""Letting a run go on that has ended without success."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from secrets import token_hex
from typing import Any, cast

from redis.exceptions import ResponseError

from orchestrator.ledger.entries import FORMAT
from orchestrator.ledger.replies import chains_in, resume_refusal
from orchestrator.ledger.server_clock import clock_key, last_step_in
from orchestrator.ledger.starting import Starting
from orchestrator.ledger.step_changes import StepChanges, step_changes
from orchestrator.ledger.values import (
    Chain,
    StagedStep,
)


class Resuming(Starting):
    """Letting a run go on that has ended without success."""

    def resume(
        self,
        run_id: str,
        resets: Sequence[tuple[str, int]],
        *,
        again: Sequence[str] = (),
        gone: Sequence[str] = (),
        staged: Sequence[StagedStep] = (),
        fields: Mapping[str, str | int] | None = None,
        detail: Mapping[str, Any] | None = None,
        seen_resumes: int | None = None,
    ) -> tuple[Chain, ...]:
        """Let a run that has ended without success go on, atomically; gives the chains to dispatch.

        `resets` are the steps that wait anew, each with how many of its upstreams are kept with
        their success; `again` are those among them that had succeeded. All other steps must have
        succeeded, or be `gone`. `staged` is every step of the run as it is to be, empty when
        nothing changed. With `fields` the run has the deadline among them, or none. `code_changed`
        in `detail` (files) is recorded as an event too. `seen_resumes` is how often the run had
        been resumed when all this was planned. Raises RunUnknown, RunNotEnded, RunSucceeded,
        AttemptsStopping, and ResumedMeanwhile when the run is at another resume than that.
        """
        resume_id = token_hex(6)
        self._stage(run_id, resume_id, staged)
        pairs = [item for pair in (fields or {}).items() for item in pair]
        if staged:
            pairs += ["v", FORMAT]
        changes = self._changes(run_id, staged) if staged else StepChanges()
        resumed = {
            "again": list(again),
            "gone": list(gone),
            "new": changes.new,
            "rewired": changes.rewired,
            "reset": len(resets),
            **(detail or {}),
        }
        if clock_step := last_step_in(cast("str | None", self.client.get(clock_key(self.prefix)))):
            resumed["clock_step"] = clock_step
        self.watch_run(run_id)
        try:
            chains = self._call(
                run_id,
                "resume",
                resume_id,
                len(staged),
                "" if seen_resumes is None else seen_resumes,
                json.dumps(resumed, separators=(",", ":")),
                json.dumps(list(again)),
                json.dumps(list(gone)),
                json.dumps(changes.respecified),
                len(pairs) // 2,
                *pairs,
                *(word for reset in resets for word in reset),
            )
        except ResponseError as error:
            raise resume_refusal(run_id, error) from None
        self._keep_watched(run_id)
        return chains_in(chains)

    def _changes(self, run_id: str, staged: Sequence[StagedStep]) -> StepChanges:
        graphs = cast(dict[str, str], self.client.hgetall(self.key(run_id, "graph")))
        specs = cast(dict[str, str], self.client.hgetall(self.key(run_id, "spec")))
        tried = {step for step, (_, attempt) in self.states(run_id).items() if attempt}
        return step_changes(graphs, specs, tried, staged)
