"""The process that outlives a worker's main process, however that dies, and ends what it leaves
behind.

    python -I -S guardian.py MAIN_PID FOLDER    standard input: the ids of the worker's children, a
    line each

A killed main process cannot end its children, and the kernel, which could (PR_SET_PDEATHSIG), would
end the children alone and leave what they started. So each child that starts reports its id here;
when the main process is gone, the guardian halts the children, looks at all that descends from them
(each child is a subreaper, so daemons too), kills it, removes the worker's temporary folder and
ends. Python's trackers of shared memory are left to free it and to end. What a child leaves behind
that ends earlier falls to the main process; once that is gone too, nobody could know whose it was,
so the guardian notes it when the child ends. Linux only. It imports the standard library only and
is run as a file, so it starts fast and stays small.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import sys
import time
from collections import defaultdict
from contextlib import suppress

KILL_LIMIT_S = 10.0


def main(main_pid: int, folder: str) -> None:
    """Wait for the end of the main process, then end its children and all below them."""
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # whoever stops a whole group means the worker; we end after it
        signal.signal(name, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        main_process = os.pidfd_open(main_pid)
    except ProcessLookupError:
        return
    poll = select.poll()
    poll.register(main_process, select.POLLIN)
    poll.register(0, select.POLLIN)
    children: dict[
        int, int
    ] = {}  # pidfd -> pid; also what ended children have left to the main process
    text = b""
    while True:
        ready = dict(poll.poll())
        if 0 in ready:
            heard = os.read(0, 4096)
            if not heard:  # nobody is left who could report a child
                poll.unregister(0)
            *lines, text = (text + heard).split(b"\n")
            for line in lines:
                with suppress(ValueError):
                    watch(int(line), children, poll)
        if main_process in ready:
            break
        if ended := ready.keys() & children.keys():
            for descriptor in ended:
                poll.unregister(descriptor)
                os.close(descriptor)
                del children[descriptor]
            for pid in children_by_parent().get(main_pid, ()):
                if pid != os.getpid():
                    watch(pid, children, poll)
    end(children)
    shutil.rmtree(folder, ignore_errors=True)


def watch(pid: int, children: dict[int, int], poll: select.poll) -> None:
    """Add a process to the children, and have its end reported; nothing if it is there already
    or has ended."""
    if pid in children.values():
        return
    with suppress(OSError):
        descriptor = os.pidfd_open(pid)
        children[descriptor] = pid
        poll.register(descriptor, select.POLLIN)


def say(text: str) -> None:
    """Print a line as the worker logs its own (`orchestrator.log_format`, which this process must
    do without)."""
    if sys.argv[3:] == ["json"]:
        at = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
        line = {
            "time": at,
            "level": "WARNING",
            "logger": "guardian",
            "message": text,
            "process": os.getpid(),
        }
        text = json.dumps(line)
    print(text, file=sys.stderr)


def end(children: dict[int, int]) -> None:
    """Kill the children and all below them. Halted first, so that nothing starts anew meanwhile."""
    for descriptor in children:
        with suppress(OSError):
            signal.pidfd_send_signal(descriptor, signal.SIGSTOP)
    living = {pid for descriptor, pid in children.items() if is_alive(descriptor)}
    known: set[int] = set()
    trackers: set[int] = set()
    while new := descendants(living | known) - known - living - trackers:
        trackers |= {pid for pid in new if is_tracker(pid)}
        new -= trackers
        known |= new
        for pid in new:
            with suppress(OSError):
                os.kill(pid, signal.SIGSTOP)
    if known:
        say(
            f"guardian: the worker is gone; ending {len(known)} processes that its steps had"
            " started"
        )
    limit = time.monotonic() + KILL_LIMIT_S
    while True:
        for pid in known:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        for descriptor in children:
            with suppress(OSError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        known = {pid for pid in known if state_of(pid) not in ("", "Z", "X")}
        if not known or time.monotonic() > limit:
            return
        time.sleep(0.02)


def is_tracker(pid: int) -> bool:
    """Whether a process is Python's tracker of shared memory and semaphores (as `processes.tree`
    has it)."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().split(b"\0")
    except OSError:
        return False
    return any(word.startswith(b"from ") and b"_tracker import main" in word for word in words)


def is_alive(descriptor: int) -> bool:
    return not select.select([descriptor], [], [], 0)[0]


def descendants(roots: set[int]) -> set[int]:
    """Return all processes below the roots, without them."""
    below = children_by_parent()
    found: set[int] = set()
    ahead = list(roots)
    while ahead:
        for child in below.get(ahead.pop(), ()):
            if child not in found:
                found.add(child)
                ahead.append(child)
    return found - roots


def children_by_parent() -> dict[int, list[int]]:
    """Return the ids of the children of each process of the machine that has any."""
    below: dict[int, list[int]] = defaultdict(list)
    for entry in os.listdir("/proc"):
        if entry.isdecimal() and (fields := stat_of(int(entry))):
            below[int(fields[1])].append(int(entry))
    return below


def state_of(pid: int) -> str:
    """Return the letter of a process's state, "" if there is no such process."""
    fields = stat_of(pid)
    return fields[0] if fields else ""


def stat_of(pid: int) -> list[str]:
    """Return state, parent and what follows in /proc/PID/stat; empty if there is no such
    process."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(") ")[2].split()
    except OSError:
        return []


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
