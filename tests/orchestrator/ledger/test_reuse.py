"""A run that begins with steps taken over from other runs, and what `verify` sees of that."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.attempt_id import AttemptId
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.staging import broker_lists, staged_steps
from orchestrator.ledger.states import Outcome, StepState
from orchestrator.ledger.values import Chain, Claim, Commit, Reused
from orchestrator.record.run import read_record
from orchestrator.record.verification import verify_run
from tests.support.rules import final_states
from tests.support.runs import (
    SETTINGS,
    Graph,
    SaidTwice,
    begin,
    events_of,
    graph,
    heads,
    random_graph,
    run_state,
    start,
    states_of,
)

NewLedger = Callable[[], Ledger]
UPSTREAM = {"a": "", "b": "a", "c": "a", "d": "b c", "alarm": "a"}
RULES = {"alarm": "one_failed"}


def end(
    ledger: Ledger, run_id: str, step: str, attempt: int = 1, outcome: Outcome = Outcome.SUCCEEDED
) -> list[str]:
    answer = ledger.commit(
        AttemptId(run_id, step, attempt),
        begin(ledger, run_id, step, attempt),
        "w",
        outcome,
        output=f'"{step}{attempt}"',
    )
    assert isinstance(answer, Commit)
    return heads(answer.ready)


def rerun(
    ledger: Ledger, made: Graph, of: str, reused: Collection[str], **fields: str
) -> tuple[str, tuple[Chain, ...]]:
    """Start a run that takes these steps over from another one, in which each has succeeded at its
    attempt."""
    plan = made.plan()
    outputs, states = ledger.outputs(of), ledger.states(of)
    places = {
        step: place for place, step in enumerate(step for step in plan.order if step in reused)
    }
    staged = [
        (
            replace(
                it,
                output=outputs.get(it.step, ""),
                reused=f"{places[it.step]} {states[it.step][1]} {of}",
            )
            if it.step in reused
            else it
        )
        for it in staged_steps(plan, SETTINGS)
    ]
    run_id = f"{of}-again"
    told = {"pipeline": "p", "params": "{}", "import_path": "", "max_links": 20}
    told |= {
        "lists": json.dumps(broker_lists(plan, SETTINGS)),
        "rerun_of": of,
        "reuses": json.dumps([of] if reused else []),
        **fields,
    }
    roots = [head for index in plan.roots if (head := plan.chains[index][0]) not in reused]
    return run_id, ledger.start(run_id, staged, roots, told)


def good_run(ledger: Ledger, run_id: str = "old") -> str:
    start(ledger, graph(UPSTREAM, RULES).plan(), run_id=run_id)
    ledger.commit(
        AttemptId(run_id, "a", 1), begin(ledger, run_id, "a"), "w", Outcome.FAILED, retry_in_s=0.0
    )
    ledger.advance_due(run_id)
    end(ledger, run_id, "a", 2)
    for step in "bcd":
        end(ledger, run_id, step)
    assert run_state(ledger, run_id) == "succeeded"
    return run_id


def test_what_is_taken_over_has_succeeded_and_only_the_rest_runs(ledger: Ledger) -> None:
    old = good_run(ledger)

    run_id, chains = rerun(ledger, graph(UPSTREAM, RULES), old, "ab")

    assert heads(chains) == ["c"]
    assert states_of(ledger, run_id) == {
        "a": "succeeded", "b": "succeeded", "c": "queued", "d": "waiting", "alarm": "skipped"
    }  # fmt: skip
    assert ledger.reused(run_id) == {"a": Reused(old, 2), "b": Reused(old, 1)}
    claim = ledger.claim(AttemptId(run_id, "c", 1), "x", "w")
    assert isinstance(claim, Claim)
    ledger.commit(AttemptId(run_id, "c", 1), claim.token, "w", Outcome.SUCCEEDED)
    assert end(ledger, run_id, "d") == []
    assert ledger.outputs(run_id) == {"a": '"a2"', "b": '"b1"', "d": '"d1"'}
    assert run_state(ledger, run_id) == "succeeded"
    record = read_record(ledger, run_id)
    assert (record.rerun_of, record.steps["a"].reused, record.steps["a"].attempts) == (
        old,
        (old, 2),
        [],
    )
    assert (record.steps["d"].reused, len(record.steps["d"].attempts)) == (None, 1)
    assert events_of(ledger, run_id)[:4] == [
        ("run.created", "", 0), ("step.reused", "a", 0), ("step.reused", "b", 0), ("step.queued",
         "c", 1)
    ]  # fmt: skip
    verified = verify_run(ledger, run_id)
    assert (verified.violations, verified.remarks, verified.attempts) == ((), (), 2)


def test_a_start_that_is_said_twice_takes_over_once_and_gives_the_same_chains(
    ledger: Ledger,
) -> None:
    old = good_run(ledger)

    run_id, chains = rerun(
        SaidTwice(ledger.client, ledger.prefix), graph(UPSTREAM, RULES), old, "a"
    )

    assert heads(chains) == ["b", "c"]
    assert [event for event, _, _ in events_of(ledger, run_id)].count("step.reused") == 1
    assert verify_run(ledger, run_id).violations == ()


def test_a_run_of_which_all_is_taken_over_succeeds_at_once(ledger: Ledger) -> None:
    upstream = {"a": "", "b": "a"}
    old, _ = start(ledger, graph(upstream).plan())
    for step in "ab":
        end(ledger, old, step)

    run_id, chains = rerun(ledger, graph(upstream), old, "ab")

    assert (chains, run_state(ledger, run_id)) == ((), "succeeded")
    assert verify_run(ledger, run_id).violations == ()


def test_a_step_that_was_taken_over_runs_when_a_resume_asks_for_it(ledger: Ledger) -> None:
    old = good_run(ledger)
    run_id, _ = rerun(ledger, graph(UPSTREAM, RULES), old, "abc")
    end(ledger, run_id, "d", outcome=Outcome.FAILED)

    chains = ledger.resume(run_id, [("b", 1), ("d", 1), ("alarm", 1)], again=["b"])

    assert heads(chains) == ["b"]
    assert ledger.reused(run_id) == {"a": Reused(old, 2), "c": Reused(old, 1)}
    end(ledger, run_id, "b")
    end(ledger, run_id, "d", 2)
    record = read_record(ledger, run_id)
    assert [len(record.steps[step].attempts) for step in "abcd"] == [0, 1, 0, 2]
    assert [record.steps[step].is_reused for step in "abcd"] == [True, False, True, False]
    assert ledger.past(run_id).outputs == {("b", 0): '"b1"'}
    assert verify_run(ledger, run_id).violations == ()


def test_nothing_of_a_rerun_that_dies_while_it_stages_stays_for_ever(ledger: Ledger) -> None:
    old = good_run(ledger)
    before = set(ledger.client.scan_iter(f"{ledger.prefix}:*"))

    ledger._call(
        "r", "stage", "s1", "a", '{"x":0,"q":"cpu","p":5}', "", "", "{}", '"a2"', f"0 2 {old}"
    )

    left = set(ledger.client.scan_iter(f"{ledger.prefix}:*")) - before
    assert {key.rpartition(":")[2] for key in left} == {
        "graph~s1",
        "spec~s1",
        "output~s1",
        "reused~s1",
    }
    assert all(0 < ledger.client.ttl(key) <= 3600 for key in left)


@given(seed=st.integers(0, 2**32), other_rules=st.sampled_from([0.0, 0.5]))
@settings(max_examples=80)
def test_any_run_ends_as_it_would_when_what_is_above_is_taken_over(
    new_ledger: NewLedger, seed: int, other_rules: float
) -> None:
    rng, ledger = Random(seed), new_ledger()
    made = random_graph(rng, 10, other_rules=other_rules)
    fails = {step for step in made.upstream if rng.random() < 0.2}
    old, _ = start(ledger, made.plan(), run_id="old")
    run_to_its_end(ledger, old, rng, fails)
    before = ledger.run_fields(old), ledger.outputs(old), events_of(ledger, old)
    succeeded = {step for step, state in states_of(ledger, old).items() if state == "succeeded"}
    reused: set[str] = set()
    for step in made.plan().order:  # any part of it with all that is above it
        if step in succeeded and set(made.upstream[step]) <= reused and rng.random() < 0.8:
            reused.add(step)
    fails = {step for step in made.upstream if rng.random() < 0.2}

    run_id, _ = rerun(
        rng.choice([ledger, SaidTwice(ledger.client, ledger.prefix)]), made, old, reused
    )
    run_to_its_end(ledger, run_id, rng, fails)

    assert states_of(ledger, run_id) == final_states(made.upstream, made.rules, fails, reused)
    record = read_record(ledger, run_id)
    assert {step for step, it in record.steps.items() if it.is_reused} == reused
    verified = verify_run(ledger, run_id)
    assert (verified.violations, verified.remarks) == ((), ())
    assert (ledger.run_fields(old), ledger.outputs(old), events_of(ledger, old)) == before


def run_to_its_end(ledger: Ledger, run_id: str, rng: Random, fails: set[str]) -> None:
    while queued := sorted(
        ledger.attempts_in(run_id, list(ledger.entries(run_id)), StepState.QUEUED)
    ):
        step = rng.choice(queued)
        end(ledger, run_id, step, outcome=Outcome.FAILED if step in fails else Outcome.SUCCEEDED)


# -- forgeries -------------------------------------------------------------------------------------


def forged(event: str, **detail: object) -> Callable[[Ledger, str], None]:
    """Write the events anew, with another detail at the first event of that name."""

    def forge(ledger: Ledger, run_id: str) -> None:
        key = ledger.key(run_id, "events")
        events = [fields for _, fields in ledger.client.xrange(key)]
        it = next(fields for fields in events if fields["event"] == event)
        it["detail"] = json.dumps({**json.loads(it["detail"] or "{}"), **detail})
        ledger.client.delete(key)
        for number, fields in enumerate(events, 1):
            ledger.client.xadd(key, fields, f"{number}-0")

    return forge


def with_one_more(
    event: str, step: str, attempt: int, detail: str = ""
) -> Callable[[Ledger, str], None]:
    def forge(ledger: Ledger, run_id: str) -> None:
        fields = {"event": event, "at": 1, "step": step, "attempt": attempt, "detail": detail}
        ledger.client.xadd(ledger.key(run_id, "events"), fields)

    return forge


def on_key(part: str, command: str, *words: object) -> Callable[[Ledger, str], None]:
    return lambda ledger, run_id: ledger.client.execute_command(
        command, ledger.key(run_id, part), *words
    )


FORGERIES: dict[str, tuple[Callable[[Ledger, str], None], str]] = {
    "an attempt that there was not": (forged("step.reused", attempt=7),
    "which has no such success"),
    "an attempt that failed": (forged("step.reused", attempt=1), "which has no such success"),
    "no attempt": (forged("step.reused", attempt=0), "does not name the attempt of another run"),
    "no run": (forged("step.reused", run=""), "does not name the attempt of another run"),
    "this run itself": (forged("step.reused", run="old-again"), "which is this run"),
    "another output": (on_key("output", "HSET", "a", '"forged"'),
    "but has another output than that"),
    "another attempt than the ledger has": (on_key("reused", "HSET", "a", "0 1 old"),
    "but the ledger has it from"),
    "a step that the ledger runs": (on_key("reused", "HDEL", "a"),
    "but the ledger has it from None"),
    "a run that is not a rerun": (on_key("run", "HDEL", "rerun_of"),
    "the run does not say that it is a rerun"),
    "a run that is not named": (on_key("run", "HSET", "reuses", "[]"),
    "the run does not say that it is a rerun"),
    "a step that has run": (
        with_one_more("step.reused", "c", 0, '{"run":"old","attempt":1}'),
        "only when the run begins",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FORGERIES)
def test_verify_finds(ledger: Ledger, case: str) -> None:
    old = good_run(ledger)
    run_id, _ = rerun(ledger, graph(UPSTREAM, RULES), old, "ab")
    end(ledger, run_id, "c")
    assert verify_run(ledger, run_id).violations == ()
    forge, expected = FORGERIES[case]

    forge(ledger, run_id)

    assert any(expected in sentence for sentence in verify_run(ledger, run_id).violations)


def test_verify_finds_a_step_that_was_taken_over_below_one_that_runs(ledger: Ledger) -> None:
    old = good_run(ledger)

    run_id, _ = rerun(ledger, graph(UPSTREAM, RULES), old, "ad")

    assert any(
        "but its upstream 'b' is not taken over" in violation
        for violation in verify_run(ledger, run_id).violations
    )


def test_verify_says_what_it_cannot_know_when_the_other_run_is_gone(ledger: Ledger) -> None:
    old = good_run(ledger)
    run_id, _ = rerun(ledger, graph(UPSTREAM, RULES), old, "ab")
    ledger.client.delete(*ledger.client.scan_iter(f"{ledger.prefix}:{{{old}}}:*"))

    verified = verify_run(ledger, run_id)

    assert verified.violations == ()
    assert verified.remarks == (
        f"run {old} is gone from the server: whether it computed 'a', 'b' cannot be checked",
    )


def test_a_source_that_was_resumed_since_still_vouches_for_what_it_had_computed(
    ledger: Ledger,
) -> None:
    upstream = {"a": "", "b": "a", "x": ""}
    old, _ = start(ledger, graph(upstream).plan())
    end(ledger, old, "a")
    end(ledger, old, "b")
    end(ledger, old, "x", outcome=Outcome.FAILED)
    run_id, _ = rerun(ledger, graph(upstream), old, "ab")

    ledger.resume(old, [("a", 0), ("b", 0), ("x", 0)], again=["a", "b"])
    end(ledger, old, "a", 2)

    assert verify_run(ledger, run_id).violations == ()
