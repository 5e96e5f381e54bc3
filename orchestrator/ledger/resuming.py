"""Letting a run go on that has ended without success."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from secrets import token_hex
from typing import Any, cast

from redis.exceptions import ResponseError

from orchestrator.ledger.entries import FORMAT, json_text
from orchestrator.ledger.pages import in_pages
from orchestrator.ledger.replies import ready_in, resume_refusal
from orchestrator.ledger.server_clock import clock_key, last_step_in
from orchestrator.ledger.starting import Starting
from orchestrator.ledger.states import StepState
from orchestrator.ledger.step_changes import StepChanges, step_changes
from orchestrator.ledger.values import (
    Ready,
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
    ) -> Ready:
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
        changes = self._changes(run_id, staged) if staged else StepChanges()
        front = self._resumed_front(run_id, resume_id, resets, again, gone, staged, changes)
        pages = self._stage_front(run_id, resume_id, front)
        steps = {"again": again, "gone": gone, "new": changes.new, "rewired": changes.rewired}
        resumed = {
            **{name: list(names) for name, names in steps.items()},
            "reset": len(resets),
            **(detail or {}),
        }
        clock_step = last_step_in(cast("str | None", self.client.get(clock_key(self.prefix))))
        if clock_step:
            resumed["clock_step"] = clock_step
        code_changed = resumed.get("code_changed")
        self.watch_run(run_id)
        try:
            chains = self._call(
                run_id,
                "resume",
                resume_id,
                len(staged),
                pages,
                "" if seen_resumes is None else seen_resumes,
                _compact(resumed),
                len(resets),
                len(again),
                len(self._succeeded(run_id, gone)),
                _compact({"changed": code_changed}) if code_changed else "",
                clock_step or "",
                *(word for pair in (fields or {}).items() for word in pair),
                *(["v", FORMAT] if staged else []),
            )
        except ResponseError as error:
            raise resume_refusal(run_id, error) from None
        self._keep_watched(run_id)
        return ready_in(chains)

    def _resumed_front(
        self,
        run_id: str,
        resume_id: str,
        resets: Sequence[tuple[str, int]],
        again: Collection[str],
        gone: Sequence[str],
        staged: Sequence[StagedStep],
        changes: StepChanges,
    ) -> list[str]:
        """Return what the resume has to do, as the front has it."""
        had_succeeded = set(again)
        rows = [[step, done, int(step in had_succeeded)] for step, done in resets]
        upstreams = (
            {step.step: step.entry.upstream_count for step in staged}
            if staged
            else {step: entry.upstream_count for step, entry in self.entries(run_id).items()}
        )
        ready = [step for step, done in resets if done == upstreams.get(step)]
        pages = ([word for row in page for word in row] for page in in_pages(rows, self._page))
        return [
            *self._front("past", changes.respecified),
            *([json_text(["take", resume_id])] if staged else []),
            *self._front("gone", gone),
            *(json_text(["reset", page]) for page in pages),
            json_text(["resumed", 0]),
            *self._front("ready", ready),
        ]

    def _succeeded(self, run_id: str, steps: Sequence[str]) -> list[str]:
        states = self.states(run_id) if steps else {}
        return [step for step in steps if states.get(step, (None, 0))[0] is StepState.SUCCEEDED]

    def _changes(self, run_id: str, staged: Sequence[StagedStep]) -> StepChanges:
        graphs = cast(dict[str, str], self.client.hgetall(self.key(run_id, "graph")))
        specs = cast(dict[str, str], self.client.hgetall(self.key(run_id, "spec")))
        tried = {step for step, (_, attempt) in self.states(run_id).items() if attempt}
        return step_changes(graphs, specs, tried, staged)


def _compact(detail: Mapping[str, Any]) -> str:
    return json.dumps(detail, separators=(",", ":"))
