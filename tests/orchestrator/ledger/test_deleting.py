"""Deleting a run: what keeps it, that nothing of it stays, and that no interruption leaves half of
it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.attempt_id import AttemptId
from orchestrator.errors import FormatUnknown
from orchestrator.ledger.deleting import Hidden, Kept
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.states import Outcome
from orchestrator.ledger.values import OwnedAttempt, Refusal, RunExists, RunUnknown
from tests.support.resumes import resume_as
from tests.support.runs import SaidTwice, begin, graph, run_state, start, start_graph
from tests.support.script import keys_and_types


def ended_run(ledger: Ledger) -> str:
    """Return a run with logs that was resumed and has lost a step by that, and has ended."""
    run_id = start_graph(ledger, {"a": "", "b": "a", "c": "a"})
    token = begin(ledger, run_id, "a")
    ledger.append_log(AttemptId(run_id, "a", 1), token, ["line"], 10)
    ledger.commit(AttemptId(run_id, "a", 1), token, "w", Outcome.SUCCEEDED, output="[1]")
    token = begin(ledger, run_id, "b")
    ledger.append_log(AttemptId(run_id, "b", 1), token, ["line"], 10)
    ledger.commit(AttemptId(run_id, "b", 1), token, "w", Outcome.FAILED)
    ledger.cancel(run_id, "enough")
    resume_as(ledger, run_id, graph({"a": "", "c": "a"}), kept="a", gone="b")
    ledger.cancel(run_id, "enough")
    return run_id


def keys_of(ledger: Ledger, run_id: str) -> list[str]:
    return [key for key in keys_and_types(ledger) if run_id in key]


def test_nothing_of_a_deleted_run_stays(ledger: Ledger) -> None:
    run_id, other = ended_run(ledger), ended_run(ledger)
    kept = keys_of(ledger, other)
    assert len(keys_of(ledger, run_id)) > 8

    assert ledger.hide(run_id) == Hidden()
    assert ledger.recent_runs(10) == [other]
    ledger.erase(run_id)

    assert keys_of(ledger, run_id) == []
    assert keys_of(ledger, other) == kept
    assert ledger.recent_runs(10) == [other]
    assert ledger.count_runs() == 1
    assert ledger.deletions() == []


@pytest.mark.parametrize("kind", [Ledger, SaidTwice])
def test_a_deletion_that_stops_anywhere_is_finished_by_the_next_one(
    ledger: Ledger, kind: type[Ledger]
) -> None:
    class Stopped(Exception):
        pass

    class Stops(kind):  # type: ignore[valid-type, misc]
        left = 0

        def _call(self, run_id: str, *args: Any) -> Any:
            if self.left == 0:
                raise Stopped
            self.left -= 1
            return super()._call(run_id, *args)

    calls = 0
    while True:
        run_id = ended_run(ledger)
        stopping = Stops(ledger.client, ledger.prefix)
        stopping.left = calls
        try:
            stopping.hide(run_id)
            stopping.erase(run_id)
        except Stopped:
            assert [it.run_id for it in ledger.deletions()] == [run_id]
        else:
            break
        if calls:
            with pytest.raises(RunUnknown):
                ledger.run_fields(run_id)
        assert ledger.hide(run_id) == Hidden()
        ledger.erase(run_id)
        assert (keys_of(ledger, run_id), ledger.deletions()) == ([], [])
        calls += 1
    assert calls >= 4


def test_a_run_that_has_not_ended_or_is_being_stopped_is_kept(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": "", "b": "a"})
    assert ledger.hide(run_id) == Kept(state="queued")
    begin(ledger, run_id, "a")
    assert ledger.hide(run_id) == Kept(state="running")
    ledger.cancel(run_id, "enough")
    assert ledger.hide(run_id) == Kept(stopping=1)
    assert ledger.hide("nobody") == Kept()

    assert ledger.deletions() == []
    assert run_state(ledger, run_id) == "cancelled"
    ledger.report_stopped(OwnedAttempt(AttemptId(run_id, "a", 1), "w"), {"how": "killed"})
    assert ledger.hide(run_id) == Hidden()


def test_a_run_is_kept_for_those_that_have_taken_over_from_it(ledger: Ledger) -> None:
    source, taker = ended_run(ledger), ended_run(ledger)
    ledger.client.hset(ledger.key(taker, "run"), "reuses", f'["{source}"]')
    assert ledger.lend(source, taker)

    assert ledger.hide(source) == Kept(takers=(taker,))
    assert ledger.takers(source) == [taker]
    ledger.hide(taker)
    ledger.erase(taker)
    assert ledger.hide(source) == Hidden()
    assert not ledger.lend(source, "another")


def test_a_taker_that_never_began_keeps_a_run_for_an_hour(ledger: Ledger) -> None:
    source = ended_run(ledger)
    ledger.lend(source, "never")
    assert ledger.hide(source) == Kept(takers=("never",))

    long_ago = ledger.now_us() - 3601 * 1_000_000
    ledger.client.zadd(ledger.key(source, "takers"), {"never": long_ago})
    assert ledger.hide(source) == Hidden()


def test_of_a_deletion_and_those_that_take_over_at_once_one_side_has_its_way(
    ledger: Ledger, at_once: Callable[..., list[Any]]
) -> None:
    for _ in range(20):
        source = ended_run(ledger)

        answers = at_once(
            lambda own, number, source=source: (
                own.hide(source) if number % 2 else own.lend(source, f"taker-{number}")
            )
        )

        lent = [answer for answer in answers if answer is True]
        is_hidden = Hidden() in answers
        assert is_hidden == (not lent), answers
        assert ledger.exists(source) != is_hidden


def test_a_run_of_the_same_id_begins_only_when_nothing_of_the_former_one_is_left(
    ledger: Ledger,
) -> None:
    run_id = ended_run(ledger)
    ledger.hide(run_id)
    with pytest.raises(RunExists):
        start(ledger, graph({"x": ""}).plan(), run_id=run_id)
    ledger.erase(run_id)

    start(ledger, graph({"x": ""}).plan(), run_id=run_id)
    ledger.erase(run_id)  # somebody who is late

    assert (run_state(ledger, run_id), ledger.recent_runs(9)) == ("queued", [run_id])


def test_nothing_that_comes_later_brings_a_deleted_run_back(ledger: Ledger) -> None:
    run_id = start_graph(ledger, {"a": "", "b": "a"})
    token = begin(ledger, run_id, "a")
    ledger.cancel(run_id, "enough")
    attempt = AttemptId(run_id, "a", 1)
    ledger.report_stopped(OwnedAttempt(attempt, "w"), {"how": "killed"})
    ledger.hide(run_id)
    ledger.erase(run_id)

    assert isinstance(ledger.claim(attempt, "c", "w"), Refusal)
    assert isinstance(ledger.commit(attempt, token, "w", Outcome.SUCCEEDED), Refusal)
    ledger.append_log(attempt, token, ["late"], 10)
    ledger.report_lost(attempt, {}, owner="w")
    ledger.report_stopped(OwnedAttempt(attempt, "w"), {"how": "late"})
    ledger.cancel(run_id, "late")
    ledger.advance_due(run_id)
    ledger.claim_alert(run_id, 60)

    assert keys_of(ledger, run_id) == []


def test_a_run_of_a_newer_version_is_not_deleted(ledger: Ledger) -> None:
    run_id = ended_run(ledger)
    ledger.client.hset(ledger.key(run_id, "run"), "v", 99)

    with pytest.raises(FormatUnknown):
        ledger.hide(run_id)

    assert ledger.deletions() == []
    assert ledger.exists(run_id)
