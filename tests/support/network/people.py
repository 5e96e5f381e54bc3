"""What people do to a run."""

from __future__ import annotations

import json
from collections.abc import Collection
from itertools import pairwise

from orchestrator.ledger.staging import broker_lists, staged_steps
from orchestrator.ledger.values import (
    AttemptsStopping,
    RunNotEnded,
    RunSucceeded,
)
from tests.support.network.doing import Doing
from tests.support.network.fates import DEADLINE, shape_of
from tests.support.runs import SETTINGS, Graph


class People(Doing):
    """What people do to a run."""

    def cancel(self) -> None:
        for _ in self._times():
            expected = self.model.cancel("enough")
            assert self.ledger.cancel(self.run_id, "enough") == (expected and expected[0])
            self._compare_nudged(expected[1] if expected else set())
            self.compare()

    def cancel_steps(self) -> None:
        steps = self.rng.sample(
            list(self.graph.upstream), min(self.rng.randint(1, 3), len(self.graph.upstream))
        )
        for _ in self._times():
            count, ready = self.ledger.cancel_steps(self.run_id, steps, "no need")
            expected, queued, workers = self.model.cancel_steps(steps)
            assert count == expected
            self._compare_ready(ready, queued)
            self._compare_nudged(workers)
            self.compare()
            self._send(ready)

    def resume(self) -> None:
        """The run goes on, as it was or as another pipeline; or it is refused: it has not ended, or
        has succeeded."""
        graph = self._mended_graph() if self.rng.random() < 0.5 else self.graph
        added = set(graph.upstream) - set(self.graph.upstream)
        some = (
            {step for step in graph.upstream if self.rng.random() < 0.1}
            if self.rng.random() < 0.5
            else set()
        )
        self.resume_by(graph, some | added)

    def resume_by(self, graph: Graph, begin: Collection[str] = ()) -> None:
        """Resume; what had not succeeded runs, so do `begin` and all that is below them, and what
        they had decided."""
        plan, model = graph.plan(), self.model
        waits_anew = model.set_back(begin, shape_of(graph))
        again = [step for step in graph.upstream if step in waits_anew and self._succeeded(step)]
        kept = graph.upstream.keys() - waits_anew
        is_other = graph is not self.graph
        is_late = self.may_be_late and self.rng.random() < 0.05
        fields = {
            "lists": json.dumps(broker_lists(plan, SETTINGS)),
            **(DEADLINE if is_late else {}),
        }
        resets = [
            (step, sum(up in kept for up in plan.upstream[step]))
            for step in graph.upstream
            if step not in kept
        ]
        before = model.run_state, len(model.due)
        gone = [step for step in self.graph.upstream if step not in graph.upstream]
        expected = model.resume(begin, shape_of(graph), is_late)
        try:
            ready = self._teller().resume(
                self.run_id, resets, again=again, gone=gone,
                staged=list(staged_steps(plan, SETTINGS)) if is_other else (), fields=fields,
            )  # fmt: skip
        except RunSucceeded:
            assert (expected, before[0]) == (None, "succeeded")
            return self.compare()
        except (RunNotEnded, AttemptsStopping) as error:
            state, still_held = before
            why = state if isinstance(error, RunNotEnded) else str(AttemptsStopping(still_held))
            assert (expected, str(error)) == (None, why)  # noqa: PT017
            return self.compare()
        assert expected is not None
        self.graph = graph
        self.next_in_chain = {a: b for chain in plan.chains for a, b in pairwise(chain)}
        self._compare_ready(ready, expected)
        self.compare()
        return self._send(ready)

    def tell_people(self) -> None:
        """Somebody tells people that the run failed; it works, or not yet."""
        tried = self.ledger.claim_alert(self.run_id, 0.0)
        assert (tried is None) == (self.model.alert_tries is None)
        if tried and self.model.alert_tries is not None:
            self.model.alert_tries += 1
            assert tried.number == self.model.alert_tries
            is_over = self.rng.random() < 0.3
            self.ledger.report_alert(
                self.run_id, tried, [("alert.sent", {})], retry_in_s=None if is_over else 0.0
            )
            self.model.changes.append(("alert.sent", "", 0))
            self.model.alert_tries = None if is_over else self.model.alert_tries
        self.compare()
