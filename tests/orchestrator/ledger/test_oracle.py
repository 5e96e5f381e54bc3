"""The ledger does what its model in plain Python does, whatever arrives in whatever order."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from invariants import check_record
from network import Fate, Network, random_fate
from oracle import final_states
from runs import random_graph, states_of

from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.record import read_record

NewLedger = Callable[[], Ledger]
seeds = st.integers(0, 2**32)


def check(network: Network) -> None:
    """The events alone prove the run right, and the record that people see says the same as the ledger."""
    states, run_event = check_record(network.seen, network.graph.upstream, network.graph.rules)
    assert {step: str(state) for step, state in states.items()} == states_of(network.ledger, network.run_id)
    record = read_record(network.ledger, network.run_id)
    assert {step: it.state for step, it in record.steps.items()} == states
    assert run_event == f"run.{record.state}"
    assert {step: len(it.attempts) for step, it in record.steps.items()} == {
        step: it.attempt for step, it in network.model.steps.items()
    }
    for step in record.steps.values():
        for attempt in step.attempts:
            assert attempt.ended_at_us is not None
            assert attempt.outcome is not None
            assert attempt.queued_at_us <= (attempt.started_at_us or attempt.queued_at_us) <= attempt.ended_at_us


@given(seed=seeds, other_rules=st.sampled_from([0.0, 0.3, 0.8]), trouble=st.sampled_from([0.0, 0.2, 0.6]))
@settings(max_examples=400)
def test_any_order_of_anything_leaves_the_ledger_as_its_model(new_ledger: NewLedger, seed, other_rules, trouble):
    rng = Random(seed)
    graph = random_graph(rng, 9, other_rules=other_rules)
    network = Network(new_ledger(), graph, random_fate(rng, graph, trouble), rng, max_links=rng.randint(1, 4))
    acts = [network.deliver, network.finish] * 4 + [
        network.stray, network.say_late, network.say_with_an_old_token, network.die, network.witness, network.promote
    ]  # fmt: skip
    cancel_at = rng.randint(0, 60) if rng.random() < 0.25 else None

    for moment in range(rng.randint(0, 60)):
        rng.choice(acts)()
        if moment == cancel_at:
            network.cancel()
    network.run_to_its_end()
    for act in (network.stray, network.say_late, network.say_with_an_old_token, network.cancel):
        act()

    check(network)


@given(seed=seeds, other_rules=st.sampled_from([0.0, 0.5]), trouble=st.sampled_from([0.1, 0.5]))
@settings(max_examples=150)
def test_every_order_leads_to_the_same_end(new_ledger: NewLedger, seed, other_rules, trouble):
    rng = Random(seed)
    graph = random_graph(rng, 10, other_rules=other_rules)
    fate = random_fate(rng, graph, trouble)
    expected = final_states(graph.upstream, graph.rules, fate.fail_for_good())

    for _ in range(2):
        network = Network(new_ledger(), graph, fate, Random(rng.random()))
        network.run_to_its_end()

        assert states_of(network.ledger, network.run_id) == expected
        assert network.model.run_state == ("failed" if "failed" in expected.values() else "succeeded")
        for step, it in network.model.steps.items():
            assert it.attempt == (1 + min(fate.failing[step], fate.retries[step]) if it.token else 0)
        check(network)


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
            network.repeat_lost_messages()

    for event in ("step.queued", "step.started", "step.succeeded"):
        assert sorted(e.step for e in network.seen if e.event == event) == sorted(graph.upstream)
    check(network)
