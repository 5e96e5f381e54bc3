"""The process that owns the embedded Valkey of one data folder.

    python keeper.py FOLDER SOCKET BINARY        FOLDER is data_dir/valkey

It runs in a session of its own, so that Ctrl-C in a terminal does not reach it, and ends when no
process uses the server any more. It imports the standard library only and is run as a file (`-I
-S`), so it starts fast.

Files of FOLDER; the locks are flocks, which the kernel lets go when the holder dies, however it
dies:

| file        | held by                              | means                                       |
|-------------|--------------------------------------|---------------------------------------------|
| users.lock  | shared: each user; exclusive: keeper | granted to the keeper = nobody uses the     |
|             |                                      | server                                      |
| start.lock  | exclusive: the user that starts one  | one start at a time                         |
| keeper.lock | exclusive: the keeper                | a keeper lives; holds its pid once none is  |
|             |                                      | older                                       |
| server.lock | exclusive: the keeper and Valkey     | someone may write the append-only file      |
| address     | not locked                           | the socket's path                           |
| valkey.log  | not locked                           | what Valkey and the keeper say              |

If the keeper is killed with SIGKILL, Linux sends Valkey SIGTERM (PR_SET_PDEATHSIG); elsewhere
Valkey lives on until the next user's keeper asks it to shut down and takes its place.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import NoReturn

EXIT_ANOTHER_KEEPER = 3
SHUTDOWN_LIMIT_S = 20.0
_PR_SET_PDEATHSIG = 1
_PROBE_LIMIT_S = 0.1
"""Users look whether a lock is held by taking it for an instant; a keeper must outlast that."""


def main(folder: Path, address: str, binary: str) -> NoReturn:
    """Run Valkey until nobody uses it; exit with its code, or with EXIT_ANOTHER_KEEPER if there is
    one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # ignored by a careless parent, it would hide how Valkey ended
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    keeper_lock = os.open(folder / "keeper.lock", os.O_RDWR | os.O_CREAT, 0o600)
    if not _lock_within(keeper_lock, _PROBE_LIMIT_S):
        os._exit(EXIT_ANOTHER_KEEPER)
    os.ftruncate(keeper_lock, 0)
    server_lock = os.open(folder / "server.lock", os.O_RDWR | os.O_CREAT, 0o600)
    _wait_for_an_orphan_to_end(server_lock, address)
    # From here on, whatever answers at the address is this keeper's.
    os.write(keeper_lock, str(os.getpid()).encode())

    users_lock = os.open(folder / "users.lock", os.O_RDWR | os.O_CREAT, 0o600)
    server = _start_valkey(folder, address, binary, server_lock)
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    Thread(target=_stop_when_unused, args=(users_lock, server, address), daemon=True).start()
    # Not sys.exit: the thread may be blocked in flock, and its lock must last until this process is
    # gone.
    os._exit(abs(server.wait()))


def _start_valkey(
    folder: Path, address: str, binary: str, server_lock: int
) -> subprocess.Popen[bytes]:
    options = {
        "port": "0",  # no TCP
        "unixsocket": address,
        "unixsocketperm": "700",
        "daemonize": "no",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "always-show-logo": "no",
    }
    arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
    # The inherited server_lock stays locked until Valkey itself is gone. The folder is the working
    # directory, which Valkey takes as its data folder, so that no character of the path needs
    # quoting.
    return subprocess.Popen(
        [binary, *arguments],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        pass_fds=[server_lock],
        preexec_fn=_death_signal(),
    )


def _death_signal() -> Callable[[], None] | None:
    """Return the call that makes the child end with its parent, where the kernel has it."""
    if not sys.platform.startswith("linux"):
        return None
    import ctypes

    prctl = ctypes.CDLL(None).prctl
    keeper = os.getpid()

    def die_with_the_keeper() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != keeper:
            os._exit(1)

    return die_with_the_keeper


def _stop_when_unused(users_lock: int, server: subprocess.Popen[bytes], address: str) -> None:
    fcntl.flock(users_lock, fcntl.LOCK_EX)
    # Valkey writes out its append-only file, removes its socket and exits. A signal it would see
    # up to a tenth of a second later.
    if not _ask_to_shut_down(address):
        server.terminate()
    try:
        server.wait(SHUTDOWN_LIMIT_S)
    except subprocess.TimeoutExpired:
        server.kill()


def _wait_for_an_orphan_to_end(server_lock: int, address: str) -> None:
    """Take the server's lock; a Valkey whose keeper died is asked to shut down first."""
    if _lock_within(server_lock, _PROBE_LIMIT_S):
        return
    _ask_to_shut_down(address)
    if not _lock_within(server_lock, SHUTDOWN_LIMIT_S):
        sys.exit(f"keeper: an older server still holds this folder after {SHUTDOWN_LIMIT_S:.0f} s")


def _ask_to_shut_down(address: str) -> bool:
    """Return whether the server has closed the connection on that; it may be gone already."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
            asking.settimeout(1.0)
            asking.connect(address)
            asking.sendall(b"SHUTDOWN\r\n")
            return not asking.recv(1)
    except OSError:
        return False


def _lock_within(descriptor: int, within_s: float) -> bool:
    limit = time.monotonic() + within_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > limit:
                return False
        time.sleep(0.002)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
