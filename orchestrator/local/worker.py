"""Real Celery workers on this machine, each in a session of its own, with nothing left of them
afterwards.

A worker's tree is its main process, the prefork children and whatever a step started. It is told by
descent and by session, because what a dead process leaves behind has a new parent but the old
session.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from orchestrator import secrecy
from orchestrator.errors import LocalWorkerError
from orchestrator.ledger.connection import connect
from orchestrator.messages.queues import queue_keys
from orchestrator.messages.worker_command import worker_command
from orchestrator.permissions import PRIVATE
from orchestrator.processes.exit_status import KnownChild, code_text, how_it_ended
from orchestrator.processes.temporary import remove_folders_of
from orchestrator.processes.tree import KILL_LIMIT_S, ProcessTree, is_tracker, kill_each
from orchestrator.redis_url import normalise_redis_url
from orchestrator.settings.model import Settings
from orchestrator.settings.pools import PoolSettings

_READY = re.compile(rb"\bready\.(?:\s*$|\")", re.MULTILINE)
RESTARTS = 10  # of a worker that was ready each time; more would help nobody
_LOG_TAIL_LINES = 30
_TERM_GRACE_S = 1.0
_TRACKERS_LIMIT_S = 2.0
_PAUSE_S = 0.02


class LocalWorker:
    """One Celery worker with `slots` children that serves several pools. Use `local_worker` to
    make one."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        log_path: Path,
        name_lock: int,
        command: Sequence[str],
        environment: Mapping[str, str],
    ) -> None:
        self.name = name
        self.settings = settings  # with the queues that this worker reads: submit with these
        self.log_path = log_path
        self._name_lock: int | None = name_lock
        self._command, self._environment = command, environment
        self._restarts = 0
        self._start()

    def _start(self) -> None:
        assert self._name_lock is not None, "nothing is started in a name that was given up"
        secrets = self.settings.secrets(["redis_url"])
        with self.log_path.open("ab") as log, secrecy.handed_down(secrets) as descriptor:
            self._log_begins = log.tell()
            self._process = KnownChild(
                secrecy.with_secrets(self._command, descriptor),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                # The name stays taken until the last process of the tree is gone, also if this one
                # is killed.
                pass_fds=[self._name_lock, descriptor],
            )
        self._tree = ProcessTree(self.pid)

    @property
    def worker_id(self) -> str:
        """The worker's name as the ledger has it: with the host's, as Celery makes it of `%h`."""
        return f"{self.name}@{socket.gethostname()}"

    @property
    def pid(self) -> int:
        """Process id of the worker's main process, which is also its session's."""
        return self._process.pid

    def alive(self) -> bool:
        """Whether the main process runs."""
        return self._process.poll() is None

    def check(self) -> None:
        """Raise LocalWorkerError if the main process has ended."""
        if not self.alive():
            raise LocalWorkerError(
                f"local worker {self.name!r} ended ({code_text(self._process.returncode)}). "
                f"The end of {self.log_path}:\n{self.log_tail()}"
            )

    def end_remains(self) -> str:
        """End what is left after the main process ended, and return of what it died: "was killed by
        signal 9 (SIGKILL)".

        Raises LocalWorkerError when it would be vain to start it again: it ended before it was
        ready, or too often.
        """
        if not self._was_ready() or self._restarts == RESTARTS:
            self.check()
        self._end_tree()
        return how_it_ended(self._process.returncode)

    def start_again(self) -> None:
        """Start the worker anew after its death, under its name and for its queues; what lies
        there stays."""
        self._restarts += 1
        self._start()

    def _was_ready(self) -> bool:
        with self.log_path.open("rb") as log:
            log.seek(self._log_begins)
            return _READY.search(log.read()) is not None

    def wait_ready(self, within_s: float = 30.0) -> None:
        """Return once the worker takes steps; LocalWorkerError if it dies first or the limit
        passes."""
        limit = time.monotonic() + within_s
        while not self._was_ready():
            self.check()
            if time.monotonic() > limit:
                raise LocalWorkerError(
                    f"local worker {self.name!r} is not ready after {within_s:g} s. "
                    f"The end of {self.log_path}:\n{self.log_tail()}"
                )
            time.sleep(_PAUSE_S)

    def log_tail(self, lines: int = _LOG_TAIL_LINES) -> str:
        """Return the last lines of the worker's log, indented."""
        try:
            text = self.log_path.read_text(errors="replace")
        except OSError as error:
            return f"  (no log: {error.strerror})"
        return "\n".join("  " + line for line in text.splitlines()[-lines:])

    def stop(self, grace_s: float) -> None:
        """Let steps end for up to `grace_s`, then end the whole tree; returns when all of it is
        gone.

        What belongs to another user (`sudo`) may not be ended, and is not waited for, here and in
        `kill`.
        """
        self._look()
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)  # Celery: take no more, finish what runs
        limit = time.monotonic() + grace_s
        while self.alive() and time.monotonic() < limit:
            # What a step starts and hands to init is known by then, even if it made a session of
            # its own.
            self._look()
            time.sleep(_PAUSE_S)
        rest = set()
        for process in self._look():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                process.terminate()
                rest.add(process)
        limit = time.monotonic() + _TERM_GRACE_S
        while not rest.isdisjoint(self._look()) and time.monotonic() < limit:
            time.sleep(_PAUSE_S)
        self.kill()

    def kill(self) -> None:
        """End the whole tree at once and give up its name; returns when all of it is gone."""
        try:
            self._end_tree()
        finally:
            if self._name_lock is not None:
                os.close(self._name_lock)
                self._name_lock = None

    def _end_tree(self) -> None:
        self._look()
        # The main process first: it would replace a killed child.
        self._process.kill()
        self._process.wait()
        began = time.monotonic()
        while (rest := set(self._look())) != kill_each(self._to_kill(rest, began)):
            if time.monotonic() > began + KILL_LIMIT_S:
                left = ", ".join(str(process.pid) for process in rest)
                raise LocalWorkerError(
                    f"processes {left} of local worker {self.name!r} cannot be killed"
                )
            time.sleep(_PAUSE_S)
        remove_folders_of(self.pid)

    @staticmethod
    def _to_kill(rest: set[psutil.Process], began: float) -> set[psutil.Process]:
        """Return what is killed now: trackers of shared memory free it and end by themselves, in a
        while."""
        if time.monotonic() > began + _TRACKERS_LIMIT_S:
            return rest
        return {process for process in rest if not _is_tracker(process)}

    def _look(self) -> list[psutil.Process]:
        """Add what is now seen of the tree to what was seen before; give what still runs."""
        # The kernel gives an id to nobody else while a session bears it: if it has, our session is
        # over.
        if self.alive() or not psutil.pid_exists(self.pid):
            for pid in psutil.pids():
                with suppress(OSError, psutil.NoSuchProcess):
                    if os.getsid(pid) == self.pid:
                        self._tree.add([psutil.Process(pid)])
        return self._tree.look()


def _is_tracker(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return is_tracker(process)
    return False


@contextmanager
def local_worker(
    settings: Settings,
    redis_url: str,
    slots: int,
    queues: Iterable[str] | None = None,
    import_path: str | Path | None = None,
    *,
    parent_watch: bool = True,
    app: str | None = None,
    ready_within_s: float | None = None,
) -> Iterator[LocalWorker]:
    """Return a started worker with `slots` children for the pools named by `queues` (all if None).

    The worker reads queues of its own (`<queue>.<name of the worker>`), so that two runs in one
    data folder never take each other's steps, and one that ends takes nothing of the other with it.
    `LocalWorker.settings` name them. The worker gets exactly `settings`, with `redis_url`, and
    with this process's id as `parent_pid` if `parent_watch`. `app` is a module in `import_path`
    whose app is served in place of ours. With `ready_within_s` it is ready, not just started.
    Leaving lets steps end for `settings.timeout_grace_s`; leaving by an exception kills them.
    """
    pools = list(settings.pools) if queues is None else list(queues)
    unknown = [pool for pool in pools if pool not in settings.pools]
    if unknown:
        raise LocalWorkerError(
            f"no pool is named {', '.join(map(repr, unknown))}; there are"
            f" {', '.join(settings.pools)}"
        )
    handed_down = settings.model_copy(
        update={
            "redis_url": normalise_redis_url(redis_url),
            "alerts": (),  # secrets that no worker needs
            "parent_pid": os.getpid() if parent_watch else None,
        }
    )
    name, name_lock, log_path = _named_in(settings.data_dir / "workers")
    handed_down = handed_down.model_copy(update={"pools": _own_pools(settings, name)})
    queues_read = [handed_down.queue_of(pool) for pool in pools]
    command = worker_command(name, queues_read, slots, app=app)
    environment = handed_down.public_environment()
    if import_path is not None:
        given = [os.path.abspath(import_path), os.environ.get("PYTHONPATH")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, given))
    try:
        _clear(redis_url, map(handed_down.list_of, queues_read))
        workers = LocalWorker(name, handed_down, log_path, name_lock, command, environment)
    except BaseException:
        os.close(name_lock)
        raise
    try:
        if ready_within_s is not None:
            workers.wait_ready(ready_within_s)
        yield workers
    except BaseException:
        workers.kill()
        raise
    workers.stop(settings.timeout_grace_s)


def _named_in(folder: Path) -> tuple[str, int, Path]:
    """Return a name that no other local worker has, the lock that keeps it, and its log."""
    try:
        PRIVATE.make_folder(folder)
        name, name_lock = _free_name(folder)
        log_path = folder / f"{name}.log"
        PRIVATE.open_new(log_path).close()
    except OSError as error:
        raise LocalWorkerError(
            f"the folder {folder} cannot be written ({error.strerror})"
        ) from None
    return name, name_lock, log_path


def _own_pools(settings: Settings, worker: str) -> dict[str, PoolSettings]:
    return {
        name: pool.model_copy(update={"queue": f"{settings.queue_of(name)}.{worker}"})
        for name, pool in settings.pools.items()
    }


def _clear(redis_url: str, lists: Iterable[str]) -> None:
    """Drop what a killed run left in queues of the same name: nobody waits for it any more."""
    with connect(redis_url) as client:
        client.delete(*(key for name in lists for key in queue_keys(name)))


def _free_name(folder: Path) -> tuple[str, int]:
    """Return the first name that no living worker of this folder has, and the lock that holds it.

    The same few names come back at each start, so that Flower's list of workers does not grow.
    """
    place = hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()[:6]
    number = 0
    while True:
        number += 1
        name = f"local-{place}-{number}"
        lock = os.open(folder / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        return name, lock
