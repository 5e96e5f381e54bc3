"""The ledger does what its model in plain Python does, whatever arrives in whatever order."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.ledger.ledger import Ledger
from orchestrator.record.run import read_record
from orchestrator.record.verification import verify_run
from tests.support.invariants import check_record
from tests.support.network.fates import Fate, random_fate
from tests.support.network.network import Network
from tests.support.rules import final_states
from tests.support.runs import Graph, random_graph, states_of

NewLedger = Callable[[], Ledger]
seeds = st.integers(0, 2**32)


def check(network: Network) -> None:
    """The events alone prove the run right, and the record that people see says the same as the
    ledger."""
    ledger, run_id, model = network.ledger, network.run_id, network.model
    states, run_state = check_record(network.seen, network.graph.upstream, network.graph.rules)
    assert {step: str(state) for step, state in states.items()} == states_of(ledger, run_id)
    verification = verify_run(ledger, run_id)
    assert verification.violations == ()
    assert (verification.events, verification.steps) == (
        len(network.seen),
        len(network.graph.upstream),
    )
    assert verification.attempts == model.begun

    record = read_record(ledger, run_id)
    assert {step: it.state for step, it in record.steps.items()} == states
    assert run_state == record.state
    assert record.resumes == model.resumes
    assert {step: len(it.attempts) for step, it in record.steps.items()} == {
        step: it.attempt for step, it in model.steps.items()
    }
    for step in record.steps.values():
        for number, attempt in enumerate(step.attempts, 1):
            assert attempt.attempt == number
            assert attempt.ended_at_us is not None
            assert attempt.outcome is not None
            assert (
                attempt.queued_at_us
                <= (attempt.started_at_us or attempt.queued_at_us)
                <= attempt.ended_at_us
            )


@given(
    seed=seeds,
    other_rules=st.sampled_from([0.0, 0.3, 0.8]),
    trouble=st.sampled_from([0.0, 0.2, 0.6]),
)
@settings(max_examples=400)
def test_any_order_of_anything_leaves_the_ledger_as_its_model(
    new_ledger: NewLedger, seed, other_rules, trouble
):
    rng = Random(seed)
    graph = random_graph(rng, 9, other_rules=other_rules, options=True)
    network = Network(
        new_ledger(), graph, random_fate(rng, graph, trouble), rng,
        max_links=rng.randint(1, 4), has_deadline=rng.random() < 0.05, age_us=rng.choice([0,
        10**15 - 2 * 10**6]),
    )  # fmt: skip
    acts = [network.deliver, network.finish] * 6 + [
        network.stray, network.say_late, network.say_with_an_old_token, network.write_log,
        network.die,
        network.witness, network.lose_a_message, network.hand_over,
        network.say_late_that_it_is_lost,
        network.put_back, network.put_back_late,
        network.renew, network.renew, network.tend, network.resend, network.resume,
    ]  # fmt: skip
    if rng.random() < 0.3:
        acts.append(network.cancel_steps)

    for _ in range(rng.randint(1, 3)):
        cancel_at = rng.randint(0, 60) if rng.random() < 0.25 else None
        for moment in range(rng.randint(0, 60)):
            rng.choice(acts)()
            if moment == cancel_at:
                network.cancel()
        network.run_to_its_end()
        for act in (
            network.stray, network.say_late, network.say_with_an_old_token,
            network.say_late_that_it_is_lost,
            network.write_log, network.renew, network.cancel, network.tell_people,
        ):  # fmt: skip
            act()
        check(network)
        network.fate = random_fate(rng, network.graph, trouble)  # somebody mended the code
        network.resume()
    network.run_to_its_end()

    check(network)


@given(seed=seeds, other_rules=st.sampled_from([0.0, 0.5]), trouble=st.sampled_from([0.1, 0.5]))
@settings(max_examples=150)
def test_every_order_leads_to_the_same_end(new_ledger: NewLedger, seed, other_rules, trouble):
    rng = Random(seed)
    graph = random_graph(rng, 10, other_rules=other_rules)
    graph = Graph(
        graph.upstream, graph.rules, {step: {"lost_attempts": 1000} for step in graph.upstream}
    )
    fate, mended = random_fate(rng, graph, trouble), random_fate(rng, graph, trouble / 2)
    begin = [step for step in graph.upstream if rng.random() < 0.1]
    ends = []

    for _ in range(2):
        network = Network(
            new_ledger(), graph, fate, Random(rng.random()), may_time_out=False, may_be_late=False
        )
        losses = [
            network.die,
            network.hand_over,
            network.put_back,
            network.lose_a_message,
            network.renew,
            network.resend,
        ]
        network.run_to_its_end(more=losses)

        expected = final_states(graph.upstream, graph.rules, fate.fail_for_good())
        assert states_of(network.ledger, network.run_id) == expected
        assert network.model.run_state == (
            "failed" if "failed" in expected.values() else "succeeded"
        )
        for step, it in network.model.steps.items():
            tries = 1 + min(fate.failing[step], fate.retries[step])
            assert it.attempt - it.uncounted == (
                tries if expected[step] in ("succeeded", "failed") else 0
            )

        if network.model.run_state == "succeeded":  # it stays as it is
            network.resume_by(graph, begin)
            check(network)
            ends.append((expected, set(expected)))
            continue
        before = {step: it.attempt for step, it in network.model.steps.items()}
        network.fate = mended
        network.resume_by(graph, begin)
        kept = set(network.model.in_state("succeeded"))
        network.run_to_its_end(more=losses)

        expected = final_states(graph.upstream, graph.rules, mended.fail_for_good(), kept)
        assert states_of(network.ledger, network.run_id) == expected
        for step, it in network.model.steps.items():
            assert (it.attempt == before[step]) == (
                step in kept or expected[step] not in ("succeeded", "failed")
            )
        ends.append((expected, kept))
        check(network)

    assert ends[0] == ends[1]


@given(seed=seeds)
@settings(max_examples=150)
def test_without_failures_every_step_commits_exactly_once(new_ledger: NewLedger, seed):
    rng = Random(seed)
    graph = random_graph(rng, 12, other_rules=0.0)
    nothing = dict.fromkeys(graph.upstream, 0)
    network = Network(new_ledger(), graph, Fate(nothing, nothing), rng)

    while network.model.open:
        rng.choice([network.deliver, network.finish, network.stray, network.say_late])()
        if not network.in_flight and not network.in_hand:
            network.send_all_again()

    for event in ("step.queued", "step.started", "step.succeeded"):
        assert sorted(e.step for e in network.seen if e.kind == event) == sorted(graph.upstream)
    check(network)
