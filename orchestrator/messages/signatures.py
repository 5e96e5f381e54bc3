"""Plans and ready chains as Celery signatures: `celery.chain` for runs of steps, `celery.chord` for
fan-ins.

A message carries ids only: run, step and attempt. What a step does, and whether it may start at
all, is in the ledger.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import Celery, Signature, chord
from celery import chain as celery_chain
from kombu.messaging import Producer

from orchestrator.ledger.values import Chain, Link
from orchestrator.messages.names import FAILURE_TASK, STEP_TASK

if TYPE_CHECKING:
    from orchestrator.plan.plan import Plan


def step_signature(app: Celery, run_id: str, pipeline: str, link: Link) -> Signature:
    """Return the signature of one attempt. In Flower it stands as "<pipeline>.<step>"."""
    options: dict[str, Any] = {
        "queue": link.queue,
        "priority": link.priority,
        "shadow": f"{pipeline}.{link.step}",
        "link_error": [_failure_callback()],
    }
    if link.timeout_s:
        # kept by our own workers, for all that the step started
        options["soft_time_limit"] = link.timeout_s
    return Signature(
        STEP_TASK,
        kwargs={"run_id": run_id, "step": link.step, "attempt": link.attempt},
        options=options,
        immutable=True,
        app=app,
    )


def chain_signature(app: Celery, run_id: str, chain: Chain) -> Signature:
    """Return a native `celery.chain` of the links, or the bare signature when there is only one."""
    signatures = [step_signature(app, run_id, chain.pipeline, link) for link in chain.links]
    return signatures[0] if len(signatures) == 1 else celery_chain(*signatures, app=app)


def publish(signature: Signature, producer: Producer) -> None:
    """Send a step's or a chain's message through `producer`, batched if it is in a batch.

    `chain.apply_async` (Celery 5.7) drops the producer that it is given, so a chain is prepared
    here as its `run` does.
    """
    if isinstance(signature, celery_chain):
        links, _ = signature.prepare_steps((), {}, signature.tasks, app=signature.app)
        links.pop().apply_async(chain=links, producer=producer)
    else:
        signature.apply_async(producer=producer)


def plan_signatures(
    app: Celery, plan: Plan, links: dict[str, Link], run_id: str
) -> list[Signature]:
    """Return the plan as Celery canvas: the root chains, then a `celery.chord` for every fan-in, in
    plan order.

    The fragments are exact for every DAG, which one nested canvas cannot be; dispatch sends the
    same chain signatures, and the ledger decides when a chord's body may start.
    """
    name = plan.pipeline.name
    chains = [
        chain_signature(app, run_id, Chain(name, tuple(links[step] for step in steps)))
        for steps in plan.chains
    ]
    return [chains[index] for index in plan.roots] + [
        chord([chains[index] for index in fan_in.header], chains[fan_in.body], app=app)
        for fan_in in plan.chords
    ]


def _failure_callback() -> dict[str, Any]:
    """The callback that takes a failure which Celery sees first (a dead process, a hard time limit)
    to the ledger.

    A new one for each link: Celery writes into the signatures that it prepares, and threads share
    none.
    """
    return dict(Signature(FAILURE_TASK))
