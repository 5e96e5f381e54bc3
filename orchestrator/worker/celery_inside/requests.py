"""The messages that a worker has taken from its queues: those not begun, which go back, and those
that run.

Queues are read without acknowledgements, so nothing in Redis remembers a message that was taken.
Celery forgets those that no child has accepted when it stops and when its connection breaks,
trusting the broker to deliver them again.
"""

from __future__ import annotations

from contextlib import suppress
from queue import Empty
from typing import Any

from celery import Celery, bootsteps
from celery.exceptions import Retry
from celery.signals import worker_shutdown
from celery.utils.log import get_logger
from celery.worker import state
from celery.worker.request import Request

from orchestrator.attempt_id import AttemptId
from orchestrator.ledger.values import OwnedAttempt, owner_of
from orchestrator.worker.endings import AttemptHindered, AttemptStopped, MessageDropped
from orchestrator.worker.log_file import log_of_child
from orchestrator.worker.main.host_state import host_state
from orchestrator.worker.main.running import CANCELLED, FENCED, RunningAttempt, running
from orchestrator.worker.process import INCARNATION

logger = get_logger(__name__)

REVOKING = (CANCELLED, FENCED)
_FIELDS: dict[str, dict[str, Any]] = {
    "task-rejected": {"requeue": False},
    "task-revoked": {"terminated": True, "signum": None, "expired": False},
}

_not_begun: dict[str, StepRequest] = {}


class StepRequest(Request):  # type: ignore[misc]
    """A message of a queue without acknowledgements: Celery's own would look for it among the
    unacked for nothing.

    Its time limit is kept by `worker.leases`, which ends all that a step started; Celery would end
    the child alone.
    """

    time_limits: tuple[float | None, float | None]  # hard, soft; as Celery's pool will have them

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.timeout_s: float = self.time_limits[1] or 0.0
        self.time_limits = (None, None)
        _not_begun[self.id] = self

    def __init_subclass__(cls) -> None:
        """Celery derives its fast request from this class, with an `on_success` of its own."""
        super().__init_subclass__()
        if fast := cls.__dict__.get("on_success"):

            def on_success(self: StepRequest, result: Any, **kwargs: Any) -> Any:
                if not result[
                    0
                ]:  # else on_failure is next, and the failure callback learns which attempt ended
                    running.forget_log(running.end(id(self)))
                try:
                    return fast(self, result, **kwargs)
                finally:
                    running.forget_log(running.end(id(self)))  # whatever came of it

            cls.on_success = on_success

    def acknowledge(self) -> None:
        """Forget the message: a child has begun with it, or it was dropped for a reason."""
        self.acknowledged = True
        _not_begun.pop(self.id, None)

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        named = self.kwargs
        held = OwnedAttempt(
            AttemptId(named["run_id"], named["step"], named["attempt"]),
            owner_of(self._hostname, INCARNATION, pid),
        )
        running.begin(id(self), RunningAttempt(held, pid, self.timeout_s, log=log_of_child(pid)))
        super().on_accepted(pid, time_accepted)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, **kwargs: Any) -> Any:
        # The failure callback, which Celery calls in line, finds the attempt here.
        self._context.attempt_that_ended = attempt = running.end(id(self))
        if hindrance := hindrance_of(exc_info.exception):
            host_state.note(str(hindrance), hindrance.needed_bytes)
        event = _event_instead_of_failure(exc_info.exception, attempt)
        try:
            answer = super().on_failure(
                exc_info, send_failed_event=send_failed_event and not event, **kwargs
            )
        finally:
            running.forget_log(attempt)
        if event:
            self.send_event(event, **_FIELDS[event])
        return answer


def _event_instead_of_failure(error: object, attempt: RunningAttempt | None) -> str:
    """Return the event that reports to Flower an end that is not a failure, an empty text if
    Celery's own does."""
    error = getattr(error, "exc", error) if not isinstance(error, Retry) else error
    if isinstance(error, MessageDropped):
        return "task-rejected"
    was_stopped = isinstance(error, AttemptStopped) or (
        attempt is not None and attempt.stop_reason in REVOKING
    )
    return "task-revoked" if was_stopped and not isinstance(error, Retry) else ""


def hindrance_of(error: object) -> AttemptHindered | None:
    """Return the fault of the host behind what a child has answered, None if there is none."""
    while error is not None and not isinstance(error, AttemptHindered):
        # of a Retry, and of what billiard wraps around an exception
        error = getattr(error, "exc", None)
    return error


class GivingBack(bootsteps.StartStopStep):  # type: ignore[misc]
    """Gives back, when the worker is connected again and when it has stopped, what no child has
    begun with."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **options: Any) -> None:
        worker_shutdown.connect(_give_back_at_the_end)
        super().__init__(parent, **options)

    def start(self, parent: Any) -> None:
        give_back(parent.app)

    def stop(self, parent: Any) -> None:
        """Take no more messages, and give back what nobody has begun: Celery would keep it until
        the last step ends."""
        is_told = state.should_stop is not None or state.should_terminate is not None
        if not is_told and parent.controller.blueprint.state == bootsteps.RUN:
            return  # it connects anew
        try:
            self._stop_asking(parent.task_consumer)
            give_back(parent.app)
        except Exception as error:
            logger.warning("messages that were not begun could not be given back yet: %s", error)

    @staticmethod
    def _stop_asking(consumer: Any) -> None:
        """Wait for the answer to the last request for a message, a second at most. It may be
        one."""
        consumer.cancel()
        if consumer.channel._in_poll:
            with suppress(Empty):
                # goes back to its queue at once, as there is no consumer
                consumer.channel._brpop_read()


def give_back(app: Celery) -> None:
    """Put what was not begun back into its queues. One that was begun all the same is harmless: the
    claim drops it."""
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
