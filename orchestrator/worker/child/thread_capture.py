"""What Python prints and logs in the thread of an attempt, in a pool of threads: they share the
descriptors."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, TextIO

from orchestrator.attempt_id import AttemptId
from orchestrator.ledger.ledger import Ledger
from orchestrator.outages import Outage
from orchestrator.worker.child.log_records import capture_records, stream_handlers
from orchestrator.worker.log_shipment import SHIP_INTERVAL_S, Shipment
from orchestrator.worker.masking import NO_MASKS, Masks

_thread_log: ContextVar[Shipment | None] = ContextVar("thread_log", default=None)
_watched: ContextVar[list[str] | None] = ContextVar("watched", default=None)
_installing = threading.Lock()  # the first steps of a pool of threads come at once
_open_logs: dict[int, Shipment] = {}
_is_any_open = threading.Event()


class ThreadCapture:
    """Captures what Python prints and logs in the thread of an attempt."""

    def __init__(self, ledger: Ledger, limit: int) -> None:
        self._ledger = ledger
        self._limit = limit
        with _installing:
            if not isinstance(sys.stdout, _Router):
                for handler in stream_handlers():
                    handler.setStream(sys.stderr)
                sys.stdout, sys.stderr = _Router(sys.stdout), _Router(sys.stderr)
                self.stream = sys.stderr
                capture_records(self)
                threading.Thread(target=_ship_open_logs, name="attempt-log", daemon=True).start()

    @contextlib.contextmanager
    def attempt(self, attempt: AttemptId, token: int, masks: Masks = NO_MASKS) -> Iterator[None]:
        shipment = Shipment(self._ledger, self._limit, attempt, token, masks)
        mark = _thread_log.set(shipment)
        _open_logs[id(shipment)] = shipment
        _is_any_open.set()
        try:
            yield
        finally:
            _thread_log.reset(mark)
            del _open_logs[id(shipment)]
            shipment.end()

    def is_open(self) -> bool:
        return _thread_log.get() is not None

    def masks(self) -> Masks:
        shipment = _thread_log.get()
        return shipment.masks if shipment else NO_MASKS

    def is_behind(self, stream: Any) -> bool:
        return isinstance(stream, _Router)

    def watch(self) -> Callable[[str], bool]:
        written: list[str] = []
        before = _watched.set(written)

        def has_captured(text: str) -> bool:
            _watched.reset(before)
            return text in "".join(written)

        return has_captured


def _ship_open_logs() -> None:
    pause, outage = (
        threading.Event(),
        Outage(logging.getLogger(__name__), "logs of steps cannot be shipped"),
    )
    while True:
        _is_any_open.wait()
        pause.wait(SHIP_INTERVAL_S)
        _is_any_open.clear()
        for shipment in list(_open_logs.values()):
            try:
                shipment.send()
                outage.is_over()
            except Exception as error:
                outage.begins(error)
        if _open_logs:
            _is_any_open.set()


class _Router(io.TextIOBase):
    """A text stream that sends what an attempt writes to its log, and all else to the stream it
    stands for."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.buffer = _BinaryRouter(stream)

    def write(self, text: str) -> int:
        shipment = _thread_log.get()
        if shipment is None:
            return self._stream.write(text)
        _add(shipment, text)
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return self._stream.fileno()


class _BinaryRouter(io.RawIOBase):
    """The same for bytes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        shipment = _thread_log.get()
        if shipment is None:
            self._stream.flush()
            return self._stream.buffer.write(data)
        _add(shipment, bytes(data))
        return len(data)

    def flush(self) -> None:
        self._stream.flush()


def _add(shipment: Shipment, written: str | bytes) -> None:
    watched = _watched.get()
    if watched is not None:
        watched.append(written if isinstance(written, str) else written.decode(errors="replace"))
    shipment.add(written)
