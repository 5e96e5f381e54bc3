"""What is in a message, and how large it can get."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
from celery import Celery, Signature, chain, chord
from hypothesis import given, settings
from hypothesis import strategies as st
from kombu import Connection
from runs import SETTINGS, graph, random_graph

from orchestrator.coordinator.submission import plan_links, plan_message_bytes
from orchestrator.definition.model import Pipeline, ShellCall, Step
from orchestrator.definition.options import StepOptions
from orchestrator.ledger.values import Link
from orchestrator.messages.app import create_app
from orchestrator.messages.dispatch import dispatch
from orchestrator.messages.signatures import (
    LINKS_PER_MESSAGE,
    MESSAGE_BYTES,
    chain_signature,
    largest_message_bytes,
    links_per_message,
    message_bytes,
    plan_signatures,
    publish,
    step_signature,
)
from orchestrator.plan.compile import compile_pipeline
from orchestrator.settings import PoolSettings, Settings

RUN_ID = "20261123-175235-0123456789"


@pytest.fixture(scope="module")
def offline_app() -> Celery:
    """An app that is never connected."""
    return create_app(SETTINGS, "redis://localhost:1/0")


def link(step: str = "a", attempt: int = 1, queue: str = "cpu", priority: int = 5, timeout_s: float = 0) -> Link:
    return Link(step, attempt, queue, priority, timeout_s)


def step_of(signature: Signature) -> str:
    return signature.kwargs["step"]


def steps_of(signature: Signature) -> list[str]:
    return [step_of(each) for each in signature.tasks] if signature.task == "celery.chain" else [step_of(signature)]


def test_a_step_is_sent_as_ids_only(offline_app: Celery) -> None:
    signature = step_signature(offline_app, RUN_ID, "churn", link("train", 3, "cuda", 2))

    assert (signature.task, signature.args) == ("pipeline.step", ())
    assert signature.kwargs == {"run_id": RUN_ID, "step": "train", "attempt": 3}
    assert signature.immutable
    options = signature.options
    assert (options["queue"], options["priority"], options["shadow"]) == ("cuda", 2, "churn.train")
    assert [callback["task"] for callback in options["link_error"]] == ["pipeline.failure"]
    assert "soft_time_limit" not in options


def test_a_timeout_travels_as_the_soft_limit_and_celery_is_given_no_hard_one(offline_app: Celery) -> None:
    options = step_signature(offline_app, RUN_ID, "p", link(timeout_s=2.5)).options

    assert options["soft_time_limit"] == 2.5
    assert "time_limit" not in options  # it would end the child alone, and leave what that had started


def test_links_are_a_native_chain_and_one_link_is_no_chain(offline_app: Celery) -> None:
    several = chain_signature(offline_app, RUN_ID, "p", (link("a", 2), link("b"), link("c")))
    one = chain_signature(offline_app, RUN_ID, "p", (link("a"),))

    assert isinstance(several, chain)
    assert [(task.kwargs["step"], task.kwargs["attempt"]) for task in several.tasks] == [("a", 2), ("b", 1), ("c", 1)]
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
    assert [steps_of(signature)[0] for signature in roots] == [plan.chains[index][0] for index in plan.roots]


def test_the_signatures_of_a_plan_are_what_dispatch_sends(offline_app: Celery) -> None:
    plan = graph({"a": "", "b": "a", "c": "a", "d": "b c", "e": "d"}).plan()
    links = plan_links(plan, SETTINGS)

    signatures = plan_signatures(offline_app, plan, links, RUN_ID)

    assert signatures[0] == chain_signature(offline_app, RUN_ID, "p", (links["a"],))
    assert signatures[-1].body == chain_signature(offline_app, RUN_ID, "p", (links["d"], links["e"]))


def test_a_chain_is_published_through_the_producer_that_is_given(app: Celery, chosen: Settings, messages_in) -> None:
    # Celery's own chain.apply_async would take one from the app's pool, and there would be no batch.
    queue = chosen.queue_of()
    with Connection("memory://") as connection:
        channel = connection.channel()
        channel.queue_declare(queue)
        for links in ((link("a", queue=queue), link("b", queue=queue)), (link("c", queue=queue),)):
            publish(chain_signature(app, RUN_ID, "p", links), connection.Producer(channel))

        assert channel._size(queue) == 2
        channel._purge(queue)
    assert messages_in(queue) == []


def test_the_measured_size_is_the_size_in_redis(app: Celery, chosen: Settings, messages_in) -> None:
    queue = chosen.queue_of()
    for count in (1, 2, 5):
        links = tuple(link(f"step-{i}", queue=queue, timeout_s=1.5) for i in range(count))
        dispatch(app, RUN_ID, "p" * 40, [links])

        assert messages_in(queue)[-1].size_bytes == message_bytes(app, RUN_ID, "p" * 40, links)


def test_the_size_of_a_message_does_not_depend_on_the_size_of_the_graph(offline_app: Celery) -> None:
    # The widest fan and the fan of one have messages of one size; so have chains from the longest message on.
    def largest(upstream) -> int:
        return plan_message_bytes(offline_app, graph(upstream).plan(), SETTINGS)

    def fan(width: int):
        return {"root": "", **{f"s{i:05}": "root" for i in range(width)}, "z": [f"s{i:05}" for i in range(width)]}

    def line(length: int):
        return {f"s{i:05}": f"s{i - 1:05}" if i else "" for i in range(length)}

    assert largest(fan(2)) == largest(fan(3000))
    assert largest(line(30)) == largest(line(5000))
    assert largest({}) == 0


@pytest.mark.parametrize("pipeline_chars", [1, 200])
@pytest.mark.parametrize("step_chars", [1, 8, 60, 200])
@pytest.mark.parametrize("timeout", [None, 123456.789])
@pytest.mark.parametrize("pool", ["cpu", "p" * 120])
def test_the_largest_message_stays_under_8_kib_whatever_the_pipeline(
    offline_app: Celery, pipeline_chars: int, step_chars: int, timeout: float | None, pool: str
) -> None:
    chosen = Settings(pools={"cpu": PoolSettings(), "p" * 120: PoolSettings()})
    options = StepOptions(timeout=timeout, pool=pool, retries=1000, priority=9)
    names = [f"{i:02}".rjust(step_chars, "x")[-max(2, step_chars) :] for i in range(100)]
    # One step has a longer name than the others and none of their weight.
    steps = {name: Step(name, ShellCall(""), tuple(names[i - 1 : i]), options) for i, name in enumerate(names)}
    steps["odd" + "d" * min(step_chars, 197)] = Step("odd", ShellCall(""))
    plan = compile_pipeline(Pipeline("p" * pipeline_chars, steps))

    largest = plan_message_bytes(offline_app, plan, chosen)

    assert largest < MESSAGE_BYTES
    # And no smaller than need be: a message that could hold another link would be a wasted trip.
    assert largest > MESSAGE_BYTES * 0.7


@given(
    steps=st.lists(
        st.tuples(st.integers(1, 200), st.sampled_from(["cpu", "q" * 90]), st.sampled_from([0, 5.0, 123456.789])),
        min_size=1, max_size=40,
    ),
    pipeline_chars=st.integers(1, 200),
)  # fmt: skip
@settings(max_examples=25)
def test_no_stretch_of_a_chain_makes_a_larger_message_than_was_said(
    offline_app: Celery, steps: list[tuple[int, str, float]], pipeline_chars: int
) -> None:
    links = tuple(link("s" * chars, 1, queue, 5, timeout_s) for chars, queue, timeout_s in steps)
    pipeline = "p" * pipeline_chars
    max_links = links_per_message(offline_app, pipeline, links, RUN_ID)

    said = largest_message_bytes(offline_app, RUN_ID, pipeline, [links], max_links)

    stretches = [links[i : i + max_links] for i in range(len(links))]
    assert max(message_bytes(offline_app, RUN_ID, pipeline, stretch) for stretch in stretches) <= said + 4  # base64
    assert said < MESSAGE_BYTES
    assert 1 <= max_links <= LINKS_PER_MESSAGE
