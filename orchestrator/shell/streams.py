"""What a shell command writes to its standard streams, read by the process that runs its step.

Both streams are pipes and not the file of the attempt's log: a command that opens `/dev/stderr`
anew to write would truncate a file, and what it had written before would be gone. A pipe stays as
it is, however it is opened.
"""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import os
import select
import struct
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from typing import IO

from orchestrator.processes.exit_status import KnownChild

_READ_BYTES = 65_536
_LOOK_MS = 50
_DRAIN_PAUSE_S = 0.05

Take = Callable[[bytes], None]


class Shown:
    """Prints what a stream of a command has, as it comes, to the stream of that name of this
    process."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def __call__(self, data: bytes, *, is_end: bool = False) -> None:
        with contextlib.suppress(ValueError, AttributeError):
            # a closed stream must not fail the step
            stream = getattr(sys, self._name)
            stream.write(self._decoder.decode(data, is_end))
            stream.flush()


def follow(process: KnownChild, take_output: Take, take_error: Take) -> int:
    """Hand over what a command writes until it has ended, and return its exit code.

    What it has left running may have its standard streams, too: nobody waits for that.
    """
    assert process.stdout is not None
    assert process.stderr is not None
    takes = {process.stdout.fileno(): take_output, process.stderr.fileno(): take_error}
    with _end_of(process) as end:
        poller = select.poll()
        for descriptor in (*takes, *([] if end is None else [end])):
            poller.register(descriptor, select.POLLIN)
        while takes:
            ready = {descriptor for descriptor, _ in poller.poll(_LOOK_MS if end is None else None)}
            if end in ready if end is not None else process.poll() is not None:
                for descriptor, take in takes.items():
                    _take_rest(descriptor, take)
                break
            for descriptor in ready.intersection(takes):
                if data := os.read(descriptor, _READ_BYTES):
                    takes[descriptor](data)
                else:
                    poller.unregister(descriptor)
                    del takes[descriptor]
    return process.wait()


def let_go(stream: IO[bytes] | None) -> None:
    """Close a stream of a command that has ended, once nobody has its other end any more: what the
    command has left running may go on to write, and nobody reads it."""
    if stream is None or stream.closed:
        return
    poller = select.poll()
    poller.register(stream, 0)
    if poller.poll(0):  # POLLHUP: there is no writer
        stream.close()
    else:
        threading.Thread(
            target=_drain, args=[stream], name="left-by-a-command", daemon=True
        ).start()


def _take_rest(stream: int, take: Take) -> None:
    (left,) = struct.unpack("i", fcntl.ioctl(stream, termios.FIONREAD, bytes(4)))
    while left > 0 and (data := os.read(stream, left)):
        left -= len(data)
        take(data)


def _drain(stream: IO[bytes]) -> None:
    """Read what nobody wants, at a pace at which one that writes without end has to wait, and costs
    no core."""
    with stream, contextlib.suppress(OSError):
        while os.read(stream.fileno(), _READ_BYTES):
            time.sleep(_DRAIN_PAUSE_S)


@contextlib.contextmanager
def _end_of(process: KnownChild) -> Iterator[int | None]:
    """Return a descriptor that becomes readable when a process has ended; None where there is
    none."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except (AttributeError, OSError):  # no such call here, or it is gone already
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)
