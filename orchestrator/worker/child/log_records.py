"""Log records of steps: each is in the log of its attempt once, whatever handlers its logger has.

A handler that writes to the captured output shows a record by itself. Every other record is shown
by ours, also where a logger does not propagate, as Celery's task loggers do not, or where a step
has set up logging anew. That needs a look at all handlers of a record, so `Logger.callHandlers` is
replaced (as sentry-sdk does, `integrations/logging.py`).
"""

from __future__ import annotations

import copy
import logging
import logging.handlers
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from orchestrator.worker.masking import NO_MASKS, Masks

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_NOT_OF_STEPS = ("celery.", "orchestrator.worker.")  # what workers log of themselves, whatever runs
_OF_STEPS = "celery.task."


class CapturedOutput(Protocol):
    """Where what a step writes is captured."""

    stream: Any
    """A text stream whose lines are captured, for our own handler."""

    def is_open(self) -> bool:
        """Whether a step runs here now."""

    def masks(self) -> Masks:
        """Return what masks the secrets of the step that runs here now."""

    def is_behind(self, stream: Any) -> bool:
        """Whether what is written to a stream is captured."""

    def watch(self) -> Callable[[str], bool]:
        """Return what says, once, whether a text has been captured since this call."""


def capture_records(output: CapturedOutput) -> None:
    """Show from now on each record of a step's in `output`, once."""
    handler = logging.StreamHandler(output.stream)
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    original = logging.Logger.callHandlers

    def call_handlers(logger: logging.Logger, record: logging.LogRecord) -> None:
        if not output.is_open() or (
            record.name.startswith(_NOT_OF_STEPS) and not record.name.startswith(_OF_STEPS)
        ):
            original(logger, record)
            return
        # for every handler: the worker's own log is read by people too
        record = _masked(record, output.masks())
        if not _is_shown(logger, record, output):
            handler.handle(record)

    logging.Logger.callHandlers = call_handlers  # type: ignore[method-assign,assignment]


def _masked(record: logging.LogRecord, masks: Masks) -> logging.LogRecord:
    if masks is NO_MASKS:
        return record
    masked = copy.copy(record)
    masked.msg, masked.args = masks(_message(record)), None
    if record.exc_info:
        masked.exc_text = masks(logging.Formatter().formatException(record.exc_info))
    if record.stack_info:
        masked.stack_info = masks(record.stack_info)
    return masked


def _is_shown(logger: logging.Logger, record: logging.LogRecord, output: CapturedOutput) -> bool:
    """Call the handlers of a record, as `Logger.callHandlers` does; True if one of them has shown
    it."""
    is_shown = has_own = False
    at: logging.Logger | None = logger
    while at:
        for handler in at.handlers:
            shows = _shows(handler, output)
            has_own = has_own or bool(shows)
            if record.levelno < handler.level:
                continue
            has_captured = output.watch() if shows is None else None
            answer: Any = handler.handle(record)
            if has_captured:
                is_shown = has_captured(_message(record)) or is_shown
            elif shows and (answer is None or answer):  # false: a filter has refused it
                is_shown = True
        if not at.propagate:
            return is_shown or has_own  # its owner has decided which of its records are shown
        at = at.parent
    return is_shown


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # arguments that do not fit, which the handlers report
        return str(record.msg)


def _shows(handler: logging.Handler, output: CapturedOutput) -> bool | None:
    """Whether a handler writes to the captured output; None if only its writing shows it."""
    handlers = [handler, *_behind(handler)]
    for each in handlers:
        stream = getattr(each, "stream", None) or getattr(
            getattr(each, "console", None), "file", None
        )
        if stream is not None and output.is_behind(stream):
            return True
    is_known = all(
        type(each).emit.__module__.startswith("logging") or hasattr(each, "stream")
        for each in handlers
    )
    return False if is_known else None


def _behind(handler: logging.Handler) -> Iterator[logging.Handler]:
    """Return the handlers that get what a handler only passes on."""
    if isinstance(handler, logging.handlers.MemoryHandler) and handler.target:
        yield handler.target
    # of a QueueHandler, set by dictConfig from Python 3.12 on
    listener = getattr(handler, "listener", None)
    yield from getattr(listener, "handlers", ())


def descriptor_of(stream: Any) -> int:
    """Return the descriptor that a stream writes to, -1 for none."""
    try:
        return int(stream.fileno())
    except Exception:  # closed, or no file at all
        return -1


def stream_handlers() -> Iterator[logging.StreamHandler[Any]]:
    """Return the handlers by which the worker logs to its own standard streams, of whatever
    logger."""
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    for logger in loggers:
        for handler in getattr(logger, "handlers", ()):  # a place holder has none
            if isinstance(handler, logging.StreamHandler) and descriptor_of(handler.stream) in (
                1,
                2,
            ):
                yield handler
