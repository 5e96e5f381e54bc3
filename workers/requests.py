"""The messages that a worker has taken from its queues and not begun, and how they go back.

Queues are read without acknowledgements, so nothing in Redis remembers a message that was taken. Celery forgets those
that no child has accepted when it stops and when its connection breaks, trusting the broker to deliver them again.
"""

from __future__ import annotations

from typing import Any

from celery import Celery, bootsteps
from celery.signals import worker_shutdown
from celery.utils.log import get_logger
from celery.worker.request import Request

logger = get_logger(__name__)

_not_begun: dict[str, StepRequest] = {}


class StepRequest(Request):  # type: ignore[misc]
    """A message of a queue without acknowledgements: Celery's own would look for it among the unacked in vain."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _not_begun[self.id] = self

    def acknowledge(self) -> None:
        """Forget the message: a child has begun with it, or it was dropped for a reason."""
        self.acknowledged = True
        _not_begun.pop(self.id, None)


class GivingBack(bootsteps.StartStopStep):  # type: ignore[misc]
    """Gives back, when the worker is connected again and when it has stopped, what no child has begun with."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **options: Any) -> None:
        worker_shutdown.connect(_give_back_at_the_end)
        super().__init__(parent, **options)

    def start(self, parent: Any) -> None:
        give_back(parent.app)


def give_back(app: Celery) -> None:
    """Put what was not begun back into its queues. One that was begun all the same is harmless: the claim drops it."""
    requests = list(_not_begun.values())
    if not requests:
        return
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        for request in requests:
            channel._put(request.delivery_info["routing_key"], request.message.serializable())
            _not_begun.pop(request.id, None)
    logger.info("gave back %d messages", len(requests))


def _give_back_at_the_end(sender: Any, **_: Any) -> None:
    try:
        give_back(sender.app)
    except Exception:
        logger.exception("messages that were not begun could not be given back")
