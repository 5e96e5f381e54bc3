"""The file into which the descriptors of an attempt lead, and what is still in it when the
attempt's process has died.

A child keeps it under a descriptor that the worker's main process knows, so that this can open it,
too, while the child lives. The file has no name and nobody need remove it. It begins with a head:

    MAGIC | where the part begins that is still there | how many lines came before that part (8
    bytes each)
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import resource
import socket
import struct
import tempfile
from collections.abc import Collection

from orchestrator.artifacts.faults import HostFault
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.values import OwnedAttempt
from orchestrator.worker.log_shipment import Shipment
from orchestrator.worker.masking import NO_MASKS, Masks

HEAD_BYTES = 4096  # a whole block, so that freeing what follows leaves it alone
READ_BYTES = 256 * 1024
_HEAD = struct.Struct("<8sQQ")
_MAGIC = b"orclog1\n"
_PUNCH_HOLE = 0x03  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE of Linux
# the descriptor, the same in every process
_SHARED = min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 1024) - 1

_prepared: list[int] = []


def prepare_file() -> None:
    """Make the first file of a child before it begins with any attempt."""
    if not _prepared:
        with contextlib.suppress(HostFault):  # it is met again by the first attempt, which says so
            _prepared.append(_made())


def new_file() -> tuple[int, int]:
    """Return two descriptors of a new file without a name: to read, and to write at its end. Raises
    HostFault.

    In memory where the system has such files, so that a full temp folder fails no print of a step.
    """
    file = _prepared.pop() if _prepared else _made()
    return file, opened_anew(file)


def opened_anew(file: int) -> int:
    """Return a descriptor of its own to write at the end of a file."""
    try:
        return os.open(f"/dev/fd/{file}", os.O_WRONLY | os.O_APPEND)
    except OSError:  # no such folder here
        fcntl.fcntl(file, fcntl.F_SETFL, fcntl.fcntl(file, fcntl.F_GETFL) | os.O_APPEND)
        return os.dup(file)


def has_head(file: int) -> bool:
    """Whether a file still begins with its head: who opens /dev/stderr to write truncates what that
    leads to."""
    return os.pread(file, len(_MAGIC), 0) == _MAGIC


def empty(file: int) -> None:
    """Take out of a file whatever an attempt has written."""
    if os.fstat(file).st_size != HEAD_BYTES:
        os.ftruncate(file, HEAD_BYTES)
        os.pwrite(file, _HEAD.pack(_MAGIC, HEAD_BYTES, 0), 0)


def leave(file: int) -> None:
    """Let nobody take what comes into a file from now on for an attempt's log."""
    os.pwrite(file, bytes(_HEAD.size), 0)


def give_back(file: int, begin: int, end: int, lines: int) -> None:
    """Free the room of a part that was shipped, with that many lines up to its end, if the system
    can."""
    os.pwrite(file, _HEAD.pack(_MAGIC, end, lines), 0)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).fallocate64(
            file, _PUNCH_HOLE, ctypes.c_int64(begin), ctypes.c_int64(end - begin)
        )


def _made() -> int:
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("attempt-log")
    else:
        try:
            with tempfile.TemporaryFile(prefix="attempt-log-") as made:
                file = os.dup(made.fileno())
        except OSError as error:
            host = socket.gethostname()
            raise HostFault(
                f"host {host} cannot keep logs in its temp folder: {error.strerror or error}"
            ) from error
    os.ftruncate(file, HEAD_BYTES)
    os.pwrite(file, _HEAD.pack(_MAGIC, HEAD_BYTES, 0), 0)
    with contextlib.suppress(OSError):
        _share(file)
    return file


def _share(file: int) -> None:
    try:
        is_ours = os.pread(_SHARED, len(_MAGIC), 0) == _MAGIC
    except OSError:
        # else it is in use for something that cannot be read
        is_ours = not os.path.exists(f"/dev/fd/{_SHARED}")
    if is_ours:
        os.dup2(file, _SHARED, inheritable=False)


class LogOfChild:
    """The file of a child, opened by the worker's main process."""

    def __init__(self, file: int) -> None:
        self.file = file

    def __del__(self) -> None:
        os.close(self.file)


_of_children: dict[int, LogOfChild] = {}  # by process id, the last ones that were opened


def log_of_child(pid: int) -> LogOfChild | None:
    """Return the file into which a child leads what its attempt writes; None where it cannot be
    opened.

    That of its last attempt is opened anew only if the child has left it to others, and so has
    another one.
    """
    known = _of_children.get(pid)
    if pid == os.getpid() or (known and has_head(known.file)):
        return known
    with contextlib.suppress(OSError):
        _of_children[pid] = LogOfChild(
            os.open(f"/proc/{pid}/fd/{_SHARED}", os.O_RDONLY | os.O_CLOEXEC)
        )
    return _of_children.get(pid)


def note_child(pid: int) -> None:
    """Open the file of a child that has just begun: its first attempt may end it before it is heard
    of."""
    _of_children.pop(pid, None)
    log_of_child(pid)


def forget_children_but(pids: Collection[int]) -> None:
    """Forget the files of all other children: they have ended."""
    for pid in [pid for pid in _of_children if pid not in pids]:
        del _of_children[pid]


def ship_what_is_left(
    log: LogOfChild | None, held: OwnedAttempt, ledger: Ledger, limit: int
) -> None:
    """Send the lines of an attempt that its process could not send before it died. Called once it
    is dead.

    They are counted from the beginning, so that the ledger takes those only that it has not got.
    """
    if log is None or not limit or os.fstat(log.file).st_size <= HEAD_BYTES:
        return
    magic, at, lines = _HEAD.unpack(os.pread(log.file, _HEAD.size, 0))
    token = ledger.token(held.run_id, held.step)
    if magic != _MAGIC or not token:
        return
    secrets = ledger.secrets(held.run_id)
    if secrets is None:
        return  # the run has ended: what would have to be masked is not known any more
    masks = Masks(secrets.values()) if secrets else NO_MASKS
    shipment = Shipment(ledger, limit, held.id, token, masks, written=lines)
    while data := os.pread(log.file, READ_BYTES, at):
        at += len(data)
        shipment.add(data)
    shipment.end()
