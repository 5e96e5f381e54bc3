"""How large a message can get: what is computed against what is really sent."""

from __future__ import annotations

import json
from itertools import count

import pytest
from celery import Celery
from hypothesis import given, settings
from hypothesis import strategies as st
from kombu import Connection

from orchestrator.definition.options import StepOptions
from orchestrator.definition.pipeline import Pipeline, ShellCall, Step
from orchestrator.ledger.values import Chain, Link
from orchestrator.messages.app import create_app
from orchestrator.messages.signatures import chain_signature, publish
from orchestrator.messages.sizes import (
    LINKS_PER_MESSAGE,
    MESSAGE_BYTES,
    ORIGIN_BYTES,
    largest_message_bytes,
    links_per_message,
    message_bytes,
)
from orchestrator.plan.compile import compile_pipeline
from orchestrator.runs.submission import plan_message_bytes
from orchestrator.settings.model import Settings
from orchestrator.settings.pools import PoolSettings
from tests.support.runs import SETTINGS, graph
from tests.support.sending import send_chains

RUN_ID = "20261123-175235-0123456789"
_queue_numbers = count()


@pytest.fixture(scope="module")
def offline_app() -> Celery:
    """An app that is never connected."""
    return create_app(
        Settings(pools={"cpu": PoolSettings(queue="pinned")}), "redis://localhost:1/0"
    )


def link(
    step: str = "a", attempt: int = 1, queue: str = "cpu", priority: int = 5, timeout_s: float = 0
) -> Link:
    return Link(step, attempt, queue, priority, timeout_s)


def published_bytes(app: Celery, run_id: str, pipeline: str, links: tuple[Link, ...]) -> int:
    """Return the size of what kombu writes, through its transport in memory (all virtual transports
    share the form)."""
    with Connection("memory://") as connection:
        channel = connection.channel()
        channel.queue_declare(links[0].queue)
        channel._purge(links[0].queue)
        publish(chain_signature(app, run_id, Chain(pipeline, links)), connection.Producer(channel))
        message = channel._get(links[0].queue)
        # As a worker with the longest of names sends it, in the middle of a run.
        message["headers"]["origin"] = "o" * ORIGIN_BYTES
        message["headers"]["parent_id"] = message["headers"]["id"]
        return len(json.dumps(message))


TEXT = st.text(
    st.characters(min_codepoint=33, exclude_characters="\\\"'", exclude_categories=["Cs"]),
    min_size=1,
)


@given(
    pipeline=TEXT,
    run_id=TEXT,
    steps=st.lists(
        st.builds(
            Link,
            step=TEXT | st.just("s" * 200),
            attempt=st.integers(1, 10**6),
            queue=st.sampled_from(["cpu", "orc.gpu", "q" * 120, "schlänge"]),
            priority=st.integers(0, 9),
            timeout_s=st.sampled_from([0, 1, 1.5, 123456.789, 1e-7, 2592000.0]),
        ),
        min_size=1,
        max_size=22,
    ),
)
@settings(max_examples=100)
def test_no_message_that_is_sent_is_larger_than_was_computed(
    offline_app: Celery, pipeline: str, run_id: str, steps: list[Link]
) -> None:
    sent = published_bytes(offline_app, run_id, pipeline, tuple(steps))

    # Equal but for a few words that are there or not: a chain, a timeout.
    assert sent <= message_bytes(run_id, pipeline, tuple(steps)) <= sent + 16


@pytest.mark.parametrize("count_", [1, 2, 5, 20])
def test_what_lies_in_redis_is_no_larger_than_was_computed(
    app: Celery, chosen: Settings, messages_in, count_: int
) -> None:
    queue = chosen.queue_of()
    links = tuple(link(f"schritt-ü{i}", queue=queue, timeout_s=1.5) for i in range(count_))

    send_chains(app, RUN_ID, [Chain("p" * 40, links)])

    (message,) = messages_in(queue)
    unknown = ORIGIN_BYTES - len(message.headers["origin"]) + len('"') * 2 + 36 - len("null")
    assert (
        message.size_bytes
        <= message_bytes(RUN_ID, "p" * 40, links)
        <= message.size_bytes + unknown + 16
    )


@given(
    links=st.lists(
        st.builds(
            Link,
            step=TEXT,
            attempt=st.integers(1, 1000),
            queue=st.sampled_from(["cpu", "q" * 120, "schlänge"]),
            priority=st.integers(0, 9),
            timeout_s=st.sampled_from([0, 1.5, 123456.789]),
        ),
        min_size=1,
        max_size=60,
    ),
    pipeline=TEXT,
)
@settings(max_examples=100)
def test_no_stretch_of_links_that_is_allowed_exceeds_the_limit(
    links: list[Link], pipeline: str
) -> None:
    allowed = links_per_message(pipeline, links, RUN_ID)

    assert 1 <= allowed <= LINKS_PER_MESSAGE
    largest = max(
        message_bytes(RUN_ID, pipeline, tuple(links[i : i + allowed])) for i in range(len(links))
    )
    assert largest < MESSAGE_BYTES or allowed == 1


def test_the_size_of_a_message_does_not_depend_on_the_size_of_the_graph() -> None:
    # The widest fan and the fan of one have messages of one size; so have chains from the longest
    # message on.
    def largest(upstream) -> int:
        return plan_message_bytes(graph(upstream).plan(), SETTINGS)

    def fan(width: int):
        return {
            "root": "",
            **{f"s{i:05}": "root" for i in range(width)},
            "z": [f"s{i:05}" for i in range(width)],
        }

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
    pipeline_chars: int, step_chars: int, timeout: float | None, pool: str
) -> None:
    chosen = Settings(pools={"cpu": PoolSettings(), "p" * 120: PoolSettings()})
    options = StepOptions(timeout=timeout, pool=pool, retries=1000, priority=9)
    names = [f"{i:02}".rjust(step_chars, "x")[-max(2, step_chars) :] for i in range(100)]
    # One step has a longer name than the others and none of their weight.
    steps = {
        name: Step(name, ShellCall(""), tuple(names[i - 1 : i]), options)
        for i, name in enumerate(names)
    }
    steps["odd" + "d" * min(step_chars, 197)] = Step("odd", ShellCall(""))
    plan = compile_pipeline(Pipeline("p" * pipeline_chars, steps))

    largest = plan_message_bytes(plan, chosen)

    assert largest < MESSAGE_BYTES
    # And no smaller than need be: a message that could hold another link would be a wasted trip.
    assert largest > MESSAGE_BYTES * 0.7


@given(
    steps=st.lists(
        st.tuples(st.integers(1, 200), st.sampled_from(["cpu", "q" * 90]), st.sampled_from([0, 5.0,
        123456.789])),
        min_size=1, max_size=40,
    ),
    pipeline_chars=st.integers(1, 200),
)  # fmt: skip
@settings(max_examples=25)
def test_no_stretch_of_a_chain_makes_a_larger_message_than_was_said(
    steps: list[tuple[int, str, float]], pipeline_chars: int
) -> None:
    links = tuple(link("s" * chars, 1, queue, 5, timeout_s) for chars, queue, timeout_s in steps)
    pipeline = "p" * pipeline_chars
    max_links = links_per_message(pipeline, links, RUN_ID)

    said = largest_message_bytes(RUN_ID, pipeline, [links], max_links)

    stretches = [links[i : i + max_links] for i in range(len(links))]
    # base64
    assert max(message_bytes(RUN_ID, pipeline, stretch) for stretch in stretches) <= said + 4
    assert said < MESSAGE_BYTES
    assert 1 <= max_links <= LINKS_PER_MESSAGE
