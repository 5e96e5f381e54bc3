"""The list of runs, read in pages while runs come and go."""

from __future__ import annotations

from random import Random

import pytest

from orchestrator.ledger import run_lists
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.values import RunUnknown
from tests.support.runs import start_graph


@pytest.mark.parametrize("seed", range(5))
def test_no_run_is_left_out_or_comes_twice_though_others_begin_meanwhile(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(run_lists, "RUNS_PAGE", 3)
    rng = Random(seed)
    runs = [start_graph(ledger, {"a": ""}) for _ in range(20)]
    now_us = ledger.now_us()
    # Many in the same microsecond, as when a sweep is submitted by several processes.
    scores = {run_id: now_us - rng.randrange(4) for run_id in runs}
    ledger.client.zadd(f"{ledger.prefix}:runs", scores)
    ordered = sorted(runs, key=lambda run_id: (scores[run_id], run_id), reverse=True)

    seen = []
    for run_id, _ in ledger.newest_runs([]):
        seen.append(run_id)
        if len(seen) % 2:
            start_graph(ledger, {"a": ""})

    assert seen == ordered
    for place in (0, 5, 19):
        later = [run_id for run_id, _ in ledger.newest_runs([], ordered[place])]
        assert later == ordered[place + 1 :]


def test_a_page_behind_a_run_that_is_gone_is_refused(ledger: Ledger) -> None:
    with pytest.raises(RunUnknown):
        list(ledger.newest_runs([], "gone"))
