"""Plans and ready chains as Celery signatures: `celery.chain` for runs of steps, `celery.chord` for fan-ins.

A message carries ids only: run, step and attempt. What a step does, and whether it may start at all, is in the ledger.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable
from functools import cache
from heapq import nlargest
from typing import Any

from celery import Celery, Signature, chain, chord
from kombu.connection import Connection
from kombu.messaging import Producer
from kombu.utils.json import dumps

from orchestrator.ledger.values import Chain, Link
from orchestrator.plan.plan import Plan

STEP_TASK = "pipeline.step"
FAILURE_TASK = "pipeline.failure"
LINKS_PER_MESSAGE = 20
MESSAGE_BYTES = 8 * 1024
HEADROOM_BYTES = 256  # for what a worker adds to the messages that it sends: parent, root, its host's name


def step_signature(app: Celery, run_id: str, pipeline: str, link: Link) -> Signature:
    """Give the signature of one attempt. In Flower it stands as "<pipeline>.<step>"."""
    options: dict[str, Any] = {
        "queue": link.queue,
        "priority": link.priority,
        "shadow": f"{pipeline}.{link.step}",
        "link_error": [_failure_callback()],
    }
    if link.timeout_s:
        options["soft_time_limit"] = link.timeout_s  # kept by our own workers, for all that the step started
    return Signature(
        STEP_TASK,
        kwargs={"run_id": run_id, "step": link.step, "attempt": link.attempt},
        options=options,
        immutable=True,
        app=app,
    )


def chain_signature(app: Celery, run_id: str, pipeline: str, links: Chain) -> Signature:
    """Give a native `celery.chain` of the links, or the bare signature when there is only one."""
    signatures = [step_signature(app, run_id, pipeline, link) for link in links]
    return signatures[0] if len(signatures) == 1 else chain(*signatures, app=app)


def publish(signature: Signature, producer: Producer) -> None:
    """Send a step's or a chain's message through `producer`, batched if it is in a batch.

    `chain.apply_async` (Celery 5.7) drops the producer that it is given, so a chain is prepared here as its `run` does.
    """
    if isinstance(signature, chain):
        links, _ = signature.prepare_steps((), {}, signature.tasks, app=signature.app)
        links.pop().apply_async(chain=links, producer=producer)
    else:
        signature.apply_async(producer=producer)


def plan_signatures(app: Celery, plan: Plan, links: dict[str, Link], run_id: str) -> list[Signature]:
    """Give the plan as Celery canvas: the root chains, then a `celery.chord` for every fan-in, in plan order.

    The fragments are exact for every DAG, which one nested canvas cannot be; dispatch sends the same chain
    signatures, and the ledger decides when a chord's body may start.
    """
    name = plan.pipeline.name
    chains = [chain_signature(app, run_id, name, tuple(links[step] for step in steps)) for steps in plan.chains]
    return [chains[index] for index in plan.roots] + [
        chord([chains[index] for index in fan_in.header], chains[fan_in.body], app=app) for fan_in in plan.chords
    ]


def links_per_message(app: Celery, pipeline: str, links: Collection[Link], run_id: str) -> int:
    """Give how many links one message may carry so that it stays under MESSAGE_BYTES, whatever the DAG."""
    if not links:
        return 1
    heaviest = Link(
        max((link.step for link in links), key=len),
        max(link.attempt for link in links),
        max((link.queue for link in links), key=len),
        9,
        max((link.timeout_s for link in links), key=_timeout_chars),
    )

    def size_bytes(count: int) -> int:
        return message_bytes(app, run_id, pipeline, (heaviest,) * count)

    return 1 + bisect_right(range(2, LINKS_PER_MESSAGE + 1), MESSAGE_BYTES - 1 - HEADROOM_BYTES, key=size_bytes)


def largest_message_bytes(app: Celery, run_id: str, pipeline: str, chains: Iterable[Chain], max_links: int) -> int:
    """Give the size of the largest message that dispatching these chains can make, measured on real messages.

    A retry begins anywhere in its chain, so every stretch of a chain counts.
    """
    stretches = (
        chain_[start : start + max_links] for chain_ in chains for start in range(max(1, len(chain_) - max_links + 1))
    )
    # The key is near the truth; the true size of a handful decides.
    heaviest = nlargest(8, stretches, key=lambda links: sum(map(_rough_bytes, links)))
    return max((message_bytes(app, run_id, pipeline, links) for links in heaviest), default=0)


def message_bytes(app: Celery, run_id: str, pipeline: str, links: Chain) -> int:
    """Give the bytes of one message as it lies in a Redis queue (kombu's virtual transports share the format)."""
    with Connection("memory://") as connection:
        channel = connection.channel()
        channel.queue_declare(links[0].queue)
        channel._purge(links[0].queue)
        producer = connection.Producer(channel)
        publish(chain_signature(app, run_id, pipeline, links), producer)
        return len(dumps(channel._get(links[0].queue)).encode())


def _rough_bytes(link: Link) -> float:
    return 300 + 3 * len(link.step) + 2 * len(link.queue) + 1.4 * _timeout_chars(link.timeout_s)


def _timeout_chars(timeout_s: float) -> int:
    return len(f"soft_time_limit {timeout_s}") if timeout_s else 0


@cache
def _failure_callback() -> dict[str, Any]:
    """The callback that takes a failure which Celery sees first (a dead process, a hard time limit) to the ledger."""
    return dict(Signature(FAILURE_TASK))
