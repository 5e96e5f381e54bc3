"""What is in a message, and how large it can get."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
from celery import Celery, Signature, chain, chord
from hypothesis import given, settings
from hypothesis import strategies as st
from kombu import Connection

from orchestrator.ledger.values import Chain, Link
from orchestrator.messages.app import create_app
from orchestrator.messages.signatures import (
    chain_signature,
    plan_signatures,
    publish,
    step_signature,
)
from orchestrator.runs.submission import plan_links
from orchestrator.settings.model import Settings
from tests.support.runs import SETTINGS, graph, random_graph

RUN_ID = "20261123-175235-0123456789"


@pytest.fixture(scope="module")
def offline_app() -> Celery:
    """An app that is never connected."""
    return create_app(SETTINGS, "redis://localhost:1/0")


def link(
    step: str = "a", attempt: int = 1, queue: str = "cpu", priority: int = 5, timeout_s: float = 0
) -> Link:
    return Link(step, attempt, queue, priority, timeout_s)


def step_of(signature: Signature) -> str:
    return signature.kwargs["step"]


def steps_of(signature: Signature) -> list[str]:
    return (
        [step_of(each) for each in signature.tasks]
        if signature.task == "celery.chain"
        else [step_of(signature)]
    )


def test_a_step_is_sent_as_ids_only(offline_app: Celery) -> None:
    signature = step_signature(offline_app, RUN_ID, "churn", link("train", 3, "cuda", 2))

    assert (signature.task, signature.args) == ("pipeline.step", ())
    assert signature.kwargs == {"run_id": RUN_ID, "step": "train", "attempt": 3}
    assert signature.immutable
    options = signature.options
    assert (options["queue"], options["priority"], options["shadow"]) == ("cuda", 2, "churn.train")
    assert [callback["task"] for callback in options["link_error"]] == ["pipeline.failure"]
    assert "soft_time_limit" not in options


def test_a_timeout_travels_as_the_soft_limit_and_celery_is_given_no_hard_one(
    offline_app: Celery,
) -> None:
    options = step_signature(offline_app, RUN_ID, "p", link(timeout_s=2.5)).options

    assert options["soft_time_limit"] == 2.5
    # it would end the child alone, and leave what that had started
    assert "time_limit" not in options


def test_links_are_a_native_chain_and_one_link_is_no_chain(offline_app: Celery) -> None:
    several = chain_signature(offline_app, RUN_ID, Chain("p", (link("a", 2), link("b"), link("c"))))
    one = chain_signature(offline_app, RUN_ID, Chain("p", (link("a"),)))

    assert isinstance(several, chain)
    assert [(task.kwargs["step"], task.kwargs["attempt"]) for task in several.tasks] == [
        ("a", 2),
        ("b", 1),
        ("c", 1),
    ]
    assert not isinstance(one, chain)
    assert step_of(one) == "a"


@given(seed=st.integers(0, 2**32))
@settings(max_examples=60)
def test_the_signatures_of_a_plan_hold_exactly_its_edges(offline_app: Celery, seed: int) -> None:
    plan = random_graph(Random(seed), 10, other_rules=0.3).plan()

    signatures = plan_signatures(offline_app, plan, plan_links(plan, SETTINGS), RUN_ID)

    chains, edges = set(), set()
    roots, chords = signatures[: len(plan.roots)], signatures[len(plan.roots) :]
    for signature in roots:
        chains.add(tuple(steps_of(signature)))
    for signature in chords:
        assert isinstance(signature, chord)
        chains.add(tuple(steps_of(signature.body)))
        chains |= {tuple(steps_of(member)) for member in signature.tasks}
        edges |= {(steps_of(member)[-1], steps_of(signature.body)[0]) for member in signature.tasks}
    edges |= {link for steps in chains for link in pairwise(steps)}
    assert chains == set(plan.chains)
    assert edges == {(u, v) for v, parents in plan.upstream.items() for u in parents}
    assert [steps_of(signature)[0] for signature in roots] == [
        plan.chains[index][0] for index in plan.roots
    ]


def test_the_signatures_of_a_plan_are_what_dispatch_sends(offline_app: Celery) -> None:
    plan = graph({"a": "", "b": "a", "c": "a", "d": "b c", "e": "d"}).plan()
    links = plan_links(plan, SETTINGS)

    signatures = plan_signatures(offline_app, plan, links, RUN_ID)

    assert signatures[0] == chain_signature(offline_app, RUN_ID, Chain("p", (links["a"],)))
    assert signatures[-1].body == chain_signature(
        offline_app, RUN_ID, Chain("p", (links["d"], links["e"]))
    )


def test_a_chain_is_published_through_the_producer_that_is_given(
    app: Celery, chosen: Settings, messages_in
) -> None:
    # Celery's own chain.apply_async would take one from the app's pool, and there would be no
    # batch.
    queue = chosen.queue_of()
    with Connection("memory://") as connection:
        channel = connection.channel()
        channel.queue_declare(queue)
        for links in ((link("a", queue=queue), link("b", queue=queue)), (link("c", queue=queue),)):
            publish(chain_signature(app, RUN_ID, Chain("p", links)), connection.Producer(channel))

        assert channel._size(queue) == 2
        channel._purge(queue)
    assert messages_in(queue) == []
