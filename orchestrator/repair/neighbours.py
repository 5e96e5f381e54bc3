"""Who else reads a queue of ours: asked for when messages of one queue were lost twice, and
reported once.

A message that another application's worker takes is found as lost and sent again, so runs survive
it; but each time costs seconds. The other reader gives itself away by its answer to Celery's
`active_queues`, or by the binding that kombu keeps of every queue that was declared.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, cast

from celery import Celery

from orchestrator.alerts.message import Message
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.presence import present_workers
from orchestrator.ledger.shared_queues import SharedQueue, is_noted, note_shared
from orchestrator.outages import EXPECTED
from orchestrator.settings.model import Settings

logger = logging.getLogger(__name__)

LOSSES = 2
WITHIN_S = 3600.0
LOOK_AGAIN_S = 30.0
ANSWER_S = 2.0
_BINDINGS = "_kombu.binding."
_SEPARATOR = "\x06\x16"


class Neighbours:
    """The losses of messages by queue, as one coordinator has seen them."""

    def __init__(
        self, ledger: Ledger, app: Celery, settings: Settings, tell: Callable[[Message], None]
    ) -> None:
        self._ledger, self._app, self._settings, self._tell = ledger, app, settings, tell
        self._losses: dict[str, deque[float]] = {}
        self._looked_at: dict[str, float] = {}

    def note_loss(self, run_id: str, queue: str) -> threading.Thread | None:
        """Note that a message of a run was lost. From the second in one queue on, look for what
        took it, in a thread."""
        now = time.monotonic()
        losses = self._losses.setdefault(queue, deque(maxlen=LOSSES))
        losses.append(now)
        if len(losses) < LOSSES or now - losses[0] > WITHIN_S:
            return None
        if now - self._looked_at.get(queue, -LOOK_AGAIN_S) < LOOK_AGAIN_S:
            return None
        self._looked_at[queue] = now
        thread = threading.Thread(
            target=self._look, args=(run_id, queue), name=f"neighbours {queue}", daemon=True
        )
        thread.start()
        return thread

    def _look(self, run_id: str, queue: str) -> None:
        try:
            client, prefix = self._ledger.client, self._ledger.prefix
            if is_noted(client, prefix, queue):
                return
            reader = other_reader(self._app, self._ledger, self._settings, queue)
            if not reader or not note_shared(
                client, prefix, SharedQueue(queue, reader, time.time())
            ):
                return
            logger.warning(
                "queue %s is read by %s, too: messages are lost and sent again", queue, reader
            )
            self._ledger.report_shared_queue(run_id, queue, reader)
            self._tell(_message(run_id, queue, reader))
        except EXPECTED as error:
            self._looked_at.pop(queue, None)  # the next loss asks again
            logger.warning("who else reads queue %s could not be found out: %s", queue, error)
        except Exception:
            logger.exception("who else reads queue %s could not be found out", queue)


def other_reader(app: Celery, ledger: Ledger, settings: Settings, queue: str) -> str:
    """Return who else reads a queue, in words; an empty text when nobody is found.

    A worker that answers is named before an application that only declared the queue some time.
    """
    name = settings.queue_today(queue)
    ours = {card.worker for card in present_workers(ledger.client, ledger.prefix)}
    answers = cast(dict[str, Any], app.control.inspect(timeout=ANSWER_S).active_queues() or {})
    nodes = [
        node
        for node, queues in sorted(answers.items())
        if node not in ours
        and any(isinstance(queue, dict) and queue.get("name") == name for queue in queues or [])
    ]
    if nodes:
        return f"Celery worker {', '.join(nodes)}"
    exchanges = sorted(_exchanges_of_others(ledger, settings, name))
    return (
        f"the Celery application that bound it to exchange {', '.join(exchanges)}"
        if exchanges
        else ""
    )


def _exchanges_of_others(ledger: Ledger, settings: Settings, queue: str) -> Iterator[str]:
    """Return the exchanges to which others have bound a queue: ours are bound to that of the
    default pool's queue."""
    bindings = settings.broker_key_prefix + _BINDINGS
    ours = {settings.queue_of(), queue}
    for key in ledger.client.scan_iter(f"{bindings}*", count=1000):
        exchange = key.removeprefix(bindings)
        if exchange in ours or ledger.client.type(key) != "set":
            continue
        members = cast(set[str], ledger.client.smembers(key))
        if any(member.split(_SEPARATOR)[-1] == queue for member in members):
            yield exchange


def _message(run_id: str, queue: str, reader: str) -> Message:
    return Message(
        f"queue {queue} is read by somebody else",
        f"{reader} takes messages from queue {queue}, which is ours. They are found as lost and"
        f" sent again, which costs each step some seconds; run {run_id} is one that waits.\n\nLet"
        " the other one read another queue, or give the pool another one (setting `queue` of the"
        " pool).",
    )
