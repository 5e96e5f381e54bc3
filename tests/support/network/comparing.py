"""Comparing the ledger with its model after each operation."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise
from math import inf

from orchestrator.ledger.entries import priority_level
from orchestrator.ledger.values import (
    Chain,
)
from tests.support.network.fates import LONG_US, WORKERS
from tests.support.network.state import NetworkState
from tests.support.runs import counts_in


class Comparing(NetworkState):
    """Comparing the ledger with its model after each operation."""

    def _compare_ready(self, ready: tuple[Chain, ...], steps: set[str]) -> None:
        assert sorted(chain.links[0].step for chain in ready) == sorted(steps)
        for chain in ready:
            self._check_links(chain)

    def _check_links(self, chain: Chain) -> None:
        """A message follows one chain of the plan, is not too long, and every link may follow by a
        success."""
        assert 1 <= len(chain.links) <= self.max_links
        assert chain.links[0].attempt == self.model.steps[chain.links[0].step].attempt
        for link, following in pairwise(chain.links):
            assert self.next_in_chain[link.step] == following.step
            assert self.graph.rules[following.step] != "one_failed"
            assert following.attempt == self.model.steps[following.step].attempt + 1

    def _compare_nudged(self, workers: set[str]) -> None:
        nudged = {
            worker for worker in WORKERS if self.ledger.client.delete(self.ledger.nudge_key(worker))
        }
        assert nudged == workers

    def _queued_by_list(self) -> dict[tuple[str, int], set[str]]:
        lists: dict[tuple[str, int], set[str]] = defaultdict(set)
        for step, _ in self.model.queued():
            lists["cpu", priority_level(self.graph.options.get(step, {}).get("priority", 5))].add(
                step
            )
        return lists

    def compare(self) -> None:
        """The ledger and its model are in the same state, and the same changes brought them
        there."""
        model, key = self.model, self.ledger.key
        levels = [("cpu", level) for level in (0, 3, 6, 9)]
        with self.ledger.client.pipeline(transaction=False) as pipe:
            for part in ("run", "state", "uncounted", "output"):
                pipe.hgetall(key(self.run_id, part))
            pipe.zrange(key(self.run_id, "due"), 0, -1, withscores=True)
            for queue, level in levels:
                pipe.zrange(key(self.run_id, f"queued:{queue}:{level}"), 0, -1)
            pipe.time()
            fields, states, uncounted, outputs, due, *lists, clock = pipe.execute()
        assert fields["state"] == model.run_state
        assert int(fields["open"]) == model.open
        assert int(fields["token"]) == model.last_token
        assert int(fields.get("resumes", 0)) == model.resumes
        assert fields.get("cancel_reason") == model.cancel_reason
        assert ("started_at" in fields) == model.is_started
        assert ("ended_at" in fields) == (model.run_state in ("succeeded", "failed", "cancelled"))
        assert (int(fields["alert_tries"]) if "alert_at" in fields else None) == model.alert_tries
        assert counts_in(fields) == dict(model.counts)

        reached = {step: tuple(text.split(" ", 2)[:2]) for step, text in states.items()}
        known = model.steps | model.gone
        expected = {step: (it.state, str(it.attempt)) for step, it in known.items()}
        untouched = ("waiting", "0")
        assert {s: at for s, at in reached.items() if at != untouched} == {
            s: at for s, at in expected.items() if at != untouched
        }
        for step in model.in_state("running", "cancelled"):
            _, _, token, _, holder = states[step].split(" ", 4)
            assert holder == (known[step].holder or "-")
            assert int(token) == known[step].token or not known[step].holder
        assert uncounted == {
            step: f"{it.lost} {it.uncounted}" + (f" {it.put_back}" if it.put_back else "")
            for step, it in known.items()
            if it.uncounted
        }
        assert outputs == {step: it.output for step, it in known.items() if it.output}
        now_us = clock[0] * 1_000_000 + clock[1]
        assert {step: at > now_us + LONG_US for step, at in due} == {
            step: at == inf for step, at in model.due.items()
        }
        assert {
            at: set(steps) for at, steps in zip(levels, lists, strict=True) if steps
        } == self._queued_by_list()

        new = list(self.ledger.events(self.run_id, self.seen[-1].id if self.seen else "0"))
        self.seen += new
        assert Counter((event.kind, event.step, event.attempt) for event in new) == Counter(
            model.changes
        )
        model.changes.clear()
