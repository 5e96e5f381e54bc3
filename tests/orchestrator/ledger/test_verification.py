"""Nothing is wrong with the record of a run that went as it may, and all that is wrong with a
forged one is found."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.ledger.events import Event, EventKind
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.script import SCRIPT
from orchestrator.ledger.staging import staged_steps
from orchestrator.ledger.states import Outcome, RunState, StepState
from orchestrator.ledger.values import RunUnknown
from orchestrator.record.replay import Replay, replay_events
from orchestrator.record.verification import verify_run
from tests.support.recorded_runs import (
    TIDY,
    UPSTREAM,
    Tampering,
    added,
    changed,
    end,
    ended_run,
    half_a_run,
    resumed_run,
    sentences,
    without,
)
from tests.support.rules import judge
from tests.support.runs import RULES, SETTINGS, Graph, graph, run_state, start, start_graph


def on_key(part: str, command: str, *words: object) -> Tampering:
    return lambda ledger, run_id: ledger.client.execute_command(
        command, ledger.key(run_id, part), *words
    )


def with_token_of(step: str, other: str) -> Tampering:
    def tamper(ledger: Ledger, run_id: str) -> None:
        key = ledger.key(run_id, "state")
        state, attempt, _, rest = ledger.client.hget(key, step).split(" ", 3)
        ledger.client.hset(key, step, f"{state} {attempt} {ledger.token(run_id, other)} {rest}")

    return tamper


@pytest.mark.parametrize("make", [half_a_run, ended_run, resumed_run])
def test_a_run_that_went_as_it_may_has_no_violation(
    ledger: Ledger, make: Callable[[Ledger], str]
) -> None:
    run_id = make(ledger)

    verification = verify_run(ledger, run_id)

    assert verification.violations == ()
    assert verification.run_id == run_id
    assert verification.state is RunState(run_state(ledger, run_id))
    events = [event.kind for event in ledger.events(run_id)]
    assert (verification.events, verification.steps) == (len(events), 6)
    assert verification.attempts == events.count("step.started")
    assert verification.repairs == 1


def test_a_run_without_steps_and_one_that_has_just_begun_have_no_violation(ledger: Ledger) -> None:
    for upstream in ({}, {"a": "", "alarm": "", "page": "alarm"}):
        run_id, _ = start(
            ledger, graph(upstream, {"alarm": "one_failed"} if upstream else {}).plan()
        )
        assert sentences(ledger, run_id) == ()


def test_a_run_that_is_not_there_is_unknown(ledger: Ledger) -> None:
    with pytest.raises(RunUnknown):
        verify_run(ledger, "gone")


@pytest.mark.parametrize(
    ("make", "tamper", "expected"),
    [
        (ended_run, on_key("state", "HSET", "a", "failed 2 2 0 -"),
         "by its events step 'a' is succeeded at attempt 2, but the ledger has it failed at attempt 2"),
        (half_a_run, on_key("state", "HSET", "c", "queued 1 0 0 -"),
         "by its events step 'c' is waiting at attempt 0, but the ledger has it queued at attempt 1"),
        (half_a_run, on_key("state", "HDEL", "b"),
         "by its events step 'b' is running at attempt 2, but the ledger has it waiting at attempt 0"),
        (half_a_run, on_key("state", "HSET", "z", "running 1 9 0 w c"),
         "the run has no step 'z', but the ledger has it running at attempt 1"),
        (ended_run, on_key("run", "HSET", "state", "succeeded"),
         "by its events the run is failed, but the ledger has it succeeded"),
        (ended_run, on_key("run", "HINCRBY", "n:succeeded", 1),
         "4 steps are succeeded, but the ledger counts 5"),
        (half_a_run, on_key("run", "HINCRBY", "open", -1),
         "3 steps have not ended, but the ledger counts 2"),
        (half_a_run, on_key("run", "HSET", "token", 0),
         "5 attempts have begun, but the ledger has given no token"),
        (half_a_run, on_key("state", "HSET", "b", f"running 2 {2**52 + 1} 0 w c"),
         r"step 'b' has token 4503599627370497, but the last one that the ledger has given is \d+"),
        (half_a_run, on_key("run", "HSET", "token", 1),
         r"step 'b' has token \d+, but the last one that the ledger has given is 1"),
        (ended_run, with_token_of("b", "a"), r"steps 'a' and 'b' have the same token \d+"),
        (half_a_run, on_key("state", "HSET", "b", "running 2 0 0 w c"),
         "step 'b' is running and attempt 2 of it has begun, but without a token"),
        (resumed_run, on_key("state", "HSET", "a", "queued 3 1 0 -"),
         "step 'a' has token 1, but attempt 3 of it has not begun"),
        (resumed_run, on_key("run", "HINCRBY", "resumes", 1),
         "the run was resumed 1 times, but the ledger counts 2"),
        (half_a_run, on_key("due", "ZREM", "b"),
         "step 'b' is running, but the ledger does not know when to look at it again"),
        (resumed_run, on_key("due", "ZREM", "a"),
         "step 'a' is queued, but the ledger does not know when to look at it again"),
        (ended_run, on_key("due", "ZADD", 1, "x"),
         "step 'x' is failed, but the ledger means to look at it again"),
        (resumed_run, on_key("queued:cpu:3", "ZREM", "a"),
         "step 'a' is queued, but stands in 0 lists of those that are queued"),
        (half_a_run, on_key("queued:cpu:3", "ZADD", 1, "c"),
         "step 'c' is waiting, but stands in 1 lists of those that are queued"),
        (half_a_run, on_key("output", "HSET", "x", "1"),
         "step 'x' is failed, but the ledger has an output of it"),
        (half_a_run, without("step.started", "b", 2),
         "by its events step 'b' is queued at attempt 2, but the ledger has it running at attempt 2"),
    ],
)  # fmt: skip
def test_what_differs_between_the_events_and_the_ledger_is_found(
    ledger: Ledger, make, tamper, expected: str
) -> None:
    run_id = make(ledger)

    tamper(ledger, run_id)

    told = sentences(ledger, run_id)
    assert any(re.fullmatch(expected, sentence) for sentence in told), told


LATER = 9_999_999_999_999_999


@pytest.mark.parametrize(
    ("make", "tamper", "expected"),
    [
        (ended_run, changed("run.created", at=5),
         "by its events created_at of the run is 1970-01-01T00:00:00.000005Z, but the ledger has .*"),
        (ended_run, on_key("run", "HSET", "ended_at", 5),
         "by its events ended_at of the run is .*, but the ledger has 1970-01-01T00:00:00.000005Z"),
        (half_a_run, on_key("run", "HDEL", "started_at"),
         "by its events started_at of the run is .*, but the ledger has None"),
        (ended_run, changed("step.succeeded", "b", 2, at=5),
         "by its events step 'b' is succeeded since 1970-01-01T00:00:00.000005Z, but the ledger has .*"),
        (half_a_run, changed("step.started", "b", 2, at=LATER),
         r"step.started \(event .*\) is of 2286-11-20T17:46:39.999999Z, which is still to come"),
        (half_a_run, changed("step.started", "b", 2, at=LATER),
         r"step 'b' has token \d+, but one of attempt 2 is \d+ at least, by its time"),
    ],
)  # fmt: skip
def test_a_time_that_is_not_that_of_the_ledger_is_found(
    ledger: Ledger, make, tamper, expected: str
) -> None:
    run_id = make(ledger)

    tamper(ledger, run_id)

    told = sentences(ledger, run_id)
    assert any(re.fullmatch(expected, sentence) for sentence in told), told


def test_events_that_were_deleted_are_counted(ledger: Ledger) -> None:
    run_id = ended_run(ledger)
    key = ledger.key(run_id, "events")
    if "entries-added" not in ledger.client.xinfo_stream(key):
        pytest.skip("this server does not count what was added to a stream (Redis 7)")
    ledger.report_shared_queue(run_id, "cpu", "somebody")
    assert sentences(ledger, run_id) == ()
    ledger.client.xdel(key, ledger.last_event_id(run_id))

    assert sentences(ledger, run_id) == ("1 events were deleted from the record",)


@given(data=st.data())
@settings(max_examples=200)
def test_a_clock_that_is_put_back_and_forward_is_no_forgery(data: st.DataObject) -> None:
    """Ids go by the clock at the beginning of a call (Redis 7.2), or when an event is written, and
    never back."""
    at_beginning = data.draw(st.booleans())
    clock, last, events = 10**15, (0, 0), list[Event]()
    for _ in range(data.draw(st.integers(1, 30))):
        clock += data.draw(
            st.one_of(st.integers(0, 3000), st.integers(0, 10**10), st.integers(-(10**10), 0))
        )
        begun, at = clock, clock + data.draw(st.integers(0, 1000))
        for number in range(data.draw(st.integers(1, 3))):
            shown = begun if at_beginning else at + data.draw(st.integers(0, 1000)) * number
            milliseconds = max(last[0], shown // 1000)
            last = milliseconds, last[1] + 1 if milliseconds == last[0] else 0
            event_id = f"{last[0]}-{last[1]}"
            events.append(Event(event_id, EventKind.COMMIT_REFUSED, at, "s", len(events), {}))
        clock = max(clock, at)

    replay = Replay({}, {}, set(), [frozenset()])
    for event in (Event("1-0", EventKind.RUN_CREATED, 0, "", 0, {}), *events):
        replay.take(event)
    assert replay.violations == []


def test_a_record_without_events_is_wrong(ledger: Ledger) -> None:
    run_id = half_a_run(ledger)
    ledger.client.delete(ledger.key(run_id, "events"))

    assert "the run has no event that creates it" in sentences(ledger, run_id)


def test_events_out_of_order_are_found() -> None:
    created = Event("5-0", EventKind.RUN_CREATED, 5, "", 0, {})
    queued = Event("4-9", EventKind.STEP_QUEUED, 5, "a", 1, {})

    told = replay_events([created, queued], {"a": ()}, {"a": "all_success"}).violations

    assert told == ["event 4-9 (step.queued) is out of order: event 5-0 is not before it"]


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_is_judged_as_the_oracle_judges_it(rule: str) -> None:
    for count in range(4):
        for states in product(StepState, repeat=count):
            upstream = {str(place): state for place, state in enumerate(states)}
            replay = Replay(
                {"v": tuple(upstream)}, {"v": rule}, {"v"}, [frozenset()], states=upstream
            )
            assert replay.verdict("v") == judge(rule, states), states


def test_a_resume_with_other_steps_is_judged_by_the_steps_that_there_were(ledger: Ledger) -> None:
    run_id = ended_run(ledger)
    # b is gone, c waits for a only, x and y are as before, new waits for c, y tidies up too.
    other = graph(
        {"new": "c", "a": "", "c": "a", "x": "", "y": "x", "tidy": "y"}, {"y": "all_done", **TIDY}
    )
    resume_as(ledger, run_id, other, kept="a c tidy", gone="b")
    (event,) = [event for event in ledger.events(run_id) if event.kind == "run.resumed"]
    assert (event.fields["new"], event.fields["gone"]) == (["new"], ["b"])
    assert event.fields["rewired"] == ["c", "y", "tidy"]
    assert sentences(ledger, run_id) == ()

    end(ledger, run_id, "x", 2, Outcome.FAILED)
    end(ledger, run_id, "y", 1)
    end(ledger, run_id, "new", 1, Outcome.FAILED)
    assert sentences(ledger, run_id) == ()

    # b comes back, and counts on from the attempts that it had.
    resume_as(ledger, run_id, graph({**UPSTREAM, "new": "b"}, TIDY), kept="a y c tidy", gone="")
    end(ledger, run_id, "b", 3)
    assert sentences(ledger, run_id) == ()
    added("step.queued", "new", 2)(ledger, run_id)
    assert any(
        sentence.startswith("step.queued of step 'new'") for sentence in sentences(ledger, run_id)
    )


@pytest.mark.parametrize("rule", RULES)
def test_a_resume_that_keeps_what_was_decided_by_an_open_step_is_found(
    ledger: Ledger, rule: str
) -> None:
    run_id = start_graph(
        ledger,
        {"gate": "", "between": "gate", "page": "between"},
        {"between": "always", "page": rule},
    )
    end(ledger, run_id, "gate", outcome=Outcome.FAILED)
    end(
        ledger,
        run_id,
        "between",
        outcome=Outcome.FAILED if rule == "one_failed" else Outcome.SUCCEEDED,
    )
    end(ledger, run_id, "page")

    resets = [("gate", 0), ("between", 0)]
    again = [] if rule == "one_failed" else ["between"]
    ledger.resume(run_id, resets, again=again)

    (sentence,) = sentences(ledger, run_id)
    assert sentence.startswith("step 'page' is kept (event ")
    assert sentence.endswith("but its upstream 'between' waits anew, so it must be judged anew")


def resume_as(ledger: Ledger, run_id: str, other: Graph, *, kept: str, gone: str) -> None:
    plan = other.plan()
    resets = [
        (step, sum(up in kept.split() for up in plan.upstream[step])) for step in other.upstream
    ]
    ledger.resume(
        run_id,
        [(step, done) for step, done in resets if step not in kept.split()],
        gone=gone.split(),
        staged=list(staged_steps(plan, SETTINGS)),
    )


def test_a_run_that_goes_on_is_seen_at_one_moment(ledger: Ledger) -> None:
    names = [f"s{i}" for i in range(300)]
    run_id = start_graph(
        ledger, {name: " ".join(names[max(0, i - 3) : i]) for i, name in enumerate(names)}
    )

    def go_on() -> None:
        for name in names:
            end(ledger, run_id, name)

    work = threading.Thread(target=go_on)
    work.start()
    seen = set()
    while work.is_alive():
        verification = verify_run(ledger, run_id)
        assert verification.violations == ()
        seen.add(verification.events)
    work.join()

    assert len(seen) > 1
    assert verify_run(ledger, run_id).violations == ()


SUCCEEDED = '{"outcome":"succeeded"}'


def run_in_layers(ledger: Ledger, count: int) -> str:
    """Return a run of so many steps, in layers of 100, all of which have succeeded."""
    names = [f"s{i}" for i in range(count)]
    upstream = {name: names[max(0, i - i % 100 - 3) : i - i % 100] for i, name in enumerate(names)}
    run_id, _ = start(ledger, graph(upstream).plan())
    script, key = ledger.client.register_script(SCRIPT), [ledger.key(run_id, "run")]
    with ledger.client.pipeline(transaction=False) as pipe:
        for at in range(0, count, 100):
            layer = names[at : at + 100]
            for name in layer:
                script(key, ["claim", name, 1, "c", "w", 6_000_000], pipe)
            for name, (_, token, *_) in zip(layer, pipe.execute(), strict=True):
                script(
                    key,
                    ["commit", name, 1, token, "w", "succeeded", SUCCEEDED, "", "", 0, ""],
                    pipe,
                )
            pipe.execute()
    assert run_state(ledger, run_id) == "succeeded"
    return run_id


def test_twice_as_many_steps_are_verified_in_twice_the_time(ledger: Ledger, cpu_growth) -> None:
    def verify(run_id: str, count: int) -> None:
        verification = verify_run(ledger, run_id)
        assert (verification.violations, verification.attempts) == ((), count)

    once, twice = run_in_layers(ledger, 5_000), run_in_layers(ledger, 10_000)

    assert cpu_growth(lambda: verify(once, 5_000), lambda: verify(twice, 10_000)) <= 2.5
