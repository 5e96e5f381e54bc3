"""How large a message gets, computed from the JSON of its links: nothing is published, so any
thread may ask.

The form is that of Celery 5.7 (task protocol 2, `chain` links as signatures) in the envelope of
kombu 5.7's virtual transports; tests compare the sizes with those of messages that were really
sent.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from heapq import nlargest
from typing import Any

from celery.app.amqp import AMQP
from celery.utils.saferepr import saferepr

from orchestrator.ledger.values import Link
from orchestrator.messages.names import FAILURE_TASK, STEP_TASK

LINKS_PER_MESSAGE = 20
MESSAGE_BYTES = 8 * 1024
ORIGIN_BYTES = 280  # of `gen<pid>@<host>`: host names have 255 characters at most
_UUID = "0" * 36
_CALLBACK: dict[str, Any] = {
    "task": FAILURE_TASK,
    "args": [],
    "kwargs": {},
    "options": {},
    "subtask_type": None,
    "immutable": False,
}


def links_per_message(pipeline: str, links: Collection[Link], run_id: str) -> int:
    """Return how many links one message may carry so that it stays under MESSAGE_BYTES, whatever
    the DAG.

    Counted with one link that has the longest name, queue and timeout and the highest attempt of
    all.
    """
    if not links:
        return 1
    worst = Link(
        max({link.step for link in links}, key=_json_bytes),
        max(link.attempt for link in links),
        max({link.queue for link in links}, key=_json_bytes),
        9,
        max({link.timeout_s for link in links}, key=_timeout_bytes),
    )
    around, first = _envelope_bytes(run_id, pipeline, worst), _body_bytes(run_id, worst)
    room = (MESSAGE_BYTES - 1 - around) // 4 * 3 - first
    return min(LINKS_PER_MESSAGE, 1 + max(0, room // (_link_bytes(run_id, pipeline, worst) + 2)))


def largest_message_bytes(
    run_id: str, pipeline: str, chains: Iterable[Sequence[Link]], max_links: int
) -> int:
    """Return the size of the largest message that dispatching these chains can make.

    A retry begins anywhere in its chain, so every stretch of a chain counts.
    """
    stretches = (
        chain_[start : start + max_links]
        for chain_ in chains
        for start in range(max(1, len(chain_) - max_links + 1))
    )
    # The key is near the truth; the true size of a handful decides.
    heaviest = nlargest(8, stretches, key=lambda links: sum(map(_rough_bytes, links)))
    return max((message_bytes(run_id, pipeline, links) for links in heaviest), default=0)


def message_bytes(run_id: str, pipeline: str, links: Sequence[Link]) -> int:
    """Return the most bytes that one message takes as it lies in its Redis list, whoever sends
    it."""
    first, *others = links
    body = _body_bytes(run_id, first) + sum(
        _link_bytes(run_id, pipeline, link) + 2 for link in others
    )
    return _envelope_bytes(run_id, pipeline, first) + -(-body // 3) * 4  # the body is base64


def _envelope_bytes(run_id: str, pipeline: str, first: Link) -> int:
    headers = {
        "lang": "py",
        "task": STEP_TASK,
        "id": _UUID,
        "shadow": f"{pipeline}.{first.step}",
        "eta": None,
        "expires": None,
        "group": None,
        "group_index": None,
        "retries": 0,
        "timelimit": [None, first.timeout_s or None],
        "root_id": _UUID,
        "parent_id": _UUID,
        "argsrepr": "()",
        "kwargsrepr": saferepr(_kwargs(run_id, first), AMQP.kwargsrepr_maxsize),
        "origin": "o" * ORIGIN_BYTES,
        "ignore_result": False,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
    }
    properties = {
        "correlation_id": _UUID,
        "reply_to": _UUID,
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": first.queue},
        "priority": first.priority,
        "body_encoding": "base64",
        "delivery_tag": _UUID,
    }
    return _json_bytes(
        {
            "body": "",
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": headers,
            "properties": properties,
        }
    )


def _body_bytes(run_id: str, first: Link) -> int:
    """Return the size of a body with one link; each further one adds its own and a separator."""
    embedded = {"callbacks": None, "errbacks": [_CALLBACK], "chain": [], "chord": None}
    # of a chain that is not there
    return _json_bytes([[], _kwargs(run_id, first), embedded]) + len("null")


def _link_bytes(run_id: str, pipeline: str, link: Link) -> int:
    """Return the size of a later link, as the signature that stands in the first one's body."""
    options: dict[str, Any] = {
        "queue": link.queue,
        "priority": link.priority,
        "shadow": f"{pipeline}.{link.step}",
        "link_error": [_CALLBACK],
        "task_id": _UUID,
        "reply_to": _UUID,
    }
    if link.timeout_s:
        options["soft_time_limit"] = link.timeout_s
    return _json_bytes(
        {
            "task": STEP_TASK,
            "args": [],
            "kwargs": _kwargs(run_id, link),
            "options": options,
            "subtask_type": None,
            "immutable": True,
        }
    )


def _kwargs(run_id: str, link: Link) -> dict[str, Any]:
    return {"run_id": run_id, "step": link.step, "attempt": link.attempt}


def _json_bytes(value: Any) -> int:
    return len(json.dumps(value))  # ASCII: what is not is escaped, as kombu does it


def _rough_bytes(link: Link) -> float:
    return 300 + 3 * len(link.step) + 2 * len(link.queue) + 1.4 * _timeout_bytes(link.timeout_s)


def _timeout_bytes(timeout_s: float) -> int:
    return len(f"soft_time_limit {timeout_s}") if timeout_s else 0
