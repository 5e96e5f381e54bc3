"""Secrets of the settings on their way to our processes, so that no step and no look into /proc
shows them.

| way | who sees it |
|---|---|
| environment, as people give it | nobody, once `withdraw` has taken it out of `os.environ` and
/proc/PID/environ |
| `handed_down`, a file without a name | the process that is started; it reads and closes it before
all else |

Code of the same user can still read the memory of our processes, and the environment of the process
that started them (a shell, a container's init); docs/operations.md says so.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

OPTION = "--secrets"
# in /proc/PID/stat, counted from the state (proc(5), fields 50 and 51)
_ENV_START, _ENV_END = (
    47,
    48,
)
_held: dict[str, str] = {}


def held() -> Mapping[str, str]:
    """Return the variables that this process has withdrawn or received."""
    return _held


def withdraw(names: Collection[str]) -> None:
    """Take variables out of this process's environment and keep them for `held`; `names` are in
    upper case."""
    taken = {name: os.environ.pop(name) for name in list(os.environ) if name.upper() in names}
    _held.update(taken)
    if taken and sys.platform == "linux":
        with suppress(OSError, IndexError, ValueError):
            _wipe(taken)


def _wipe(names: Collection[str]) -> None:
    """Overwrite values in the block that the kernel shows as /proc/PID/environ: `os.environ` is a
    copy of it.

    With stars, not zeros: to psutil and others an empty entry is the end, and the variables after
    it would be hidden.
    """
    with open("/proc/self/stat", encoding="ascii", errors="replace") as file:
        fields = file.read().rpartition(") ")[2].split()
    start, end = int(fields[_ENV_START]), int(fields[_ENV_END])
    if not 0 < start < end:
        return
    place = start
    for entry in ctypes.string_at(start, end - start).split(b"\0"):
        name, equals, value = entry.partition(b"=")
        if equals and os.fsdecode(name) in names:
            ctypes.memset(place + len(name) + 1, ord("*"), len(value))
        place += len(entry) + 1


@contextmanager
def handed_down(variables: Mapping[str, str]) -> Iterator[int]:
    """Yield an open descriptor from which a process that is started in the block reads these
    variables."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("orchestrator")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    try:
        os.write(descriptor, json.dumps(dict(variables)).encode())
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


def with_secrets(command: Sequence[str], descriptor: int) -> list[str]:
    """Return a `service_command` that reads secrets from an inherited descriptor."""
    return [*command[:4], OPTION, str(descriptor), *command[4:]]


def receive(arguments: Sequence[str]) -> list[str]:
    """Read and close what was handed down, if these arguments of a process say so; return the other
    arguments."""
    if list(arguments[:1]) != [OPTION]:
        return list(arguments)
    with os.fdopen(int(arguments[1]), "rb") as file:
        _held.update(json.load(file))
    return list(arguments[2:])
