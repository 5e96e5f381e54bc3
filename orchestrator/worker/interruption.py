"""Asking a step to end, on the side of the process that runs it: signals of its worker, and
`should_stop`.

| signal  | means                                                | answer                          |
|---------|------------------------------------------------------|---------------------------------|
| SIGUSR1 | the attempt timed out                                | StopRequested is raised in the  |
|         |                                                      | step                            |
| SIGUSR2 | cancelled, handed over, or somebody took over        | the same; the asker reports to  |
|         |                                                      | the ledger                      |
| SIGTERM | to the whole group or control group: the worker ends | noted for `should_stop`; the    |
|         |                                                      | worker's main process decides   |

That holds for signals that the main process has announced (`worker.announcements`). Any other
SIGUSR1 or SIGUSR2 came from outside and raises SignalReceived. So does a SIGTERM to the child
alone, as soon as the main process knows that.

Between two steps SIGUSR1 and SIGUSR2 mean nothing: they came too late. While a step imports, and
before it begins, they are only noted: a module that is torn out of its import would stay in this
process, broken, for the steps of other runs. So who asks goes on asking until the attempt has
ended. Raised is once: a repeated signal disturbs no tidying up.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # without the enums of `signal`, which cost as much as the call
import contextlib
import mmap
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from orchestrator.attempt_context import StopRequested
from orchestrator.attempt_id import AttemptId
from orchestrator.errors import SignalReceived
from orchestrator.processes.exit_status import signal_name
from orchestrator.worker.announcements import is_announced, note_terminated
from orchestrator.worker.call_clock import has_call_ended

_draining = mmap.mmap(-1, 1)  # shared with the children, which are forked later
_is_listening = False  # this process is a prefork child
_is_busy = False  # from claim to dispatch
_attempt = AttemptId("", "", 0)
_is_interruptible = False  # in the step itself, and not asked yet
_is_asked = False
_is_stopping = False  # asked by who reports to the ledger once all of it is gone
_before: Any = None  # what SIGTERM did before the first step
_RECEIVED = "the step's process was sent {} from outside, not by its worker"
_asked_threads: set[AttemptId] = set()
_OWN_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)
_held = threading.local()  # the mask of a thread that forks


def note_draining() -> None:
    """Let every step of this worker know that it had better save its work and end."""
    _draining[0] = 1


def is_draining() -> bool:
    """Whether this worker is to end."""
    return _draining[0] == 1


def should_stop(attempt: AttemptId) -> bool:
    """Whether an attempt that runs in this process had better end."""
    return is_draining() or _is_asked or is_asked_in_thread(attempt)


def is_being_stopped(attempt: AttemptId) -> bool:
    """Whether somebody stops an attempt that runs in this process, and will report to the ledger
    its end."""
    return _is_stopping or is_asked_in_thread(attempt)


def is_asked_in_thread(attempt: AttemptId) -> bool:
    """Whether an attempt in a thread was asked to end; then the asker reports to the ledger,
    whatever the step gives."""
    return attempt in _asked_threads


@contextlib.contextmanager
def asked_in_thread(attempt: AttemptId) -> Iterator[None]:
    """Let `should_stop` be true for an attempt that runs in a thread of this process: nothing else
    can end it."""
    _asked_threads.add(attempt)
    try:
        yield
    finally:
        _asked_threads.discard(attempt)


def is_prefork_child() -> bool:
    """Whether this process runs steps only, one after the other, and may be replaced by another
    one."""
    return _is_listening


def listen_in_child() -> None:
    """Answer the signals from the first step on; called in a prefork child, before billiard sets
    its own handlers.

    What the child forks in turn does not answer them.
    """
    global _is_listening
    _is_listening = True
    os.register_at_fork(
        before=_hold_signals, after_in_parent=_release_signals, after_in_child=_be_ordinary
    )


def _listen() -> None:
    global _before
    if _before is None:
        _before = signal.getsignal(signal.SIGTERM)
        for number in signal.valid_signals():
            # billiard's own handler would let the step itself end as if it had called sys.exit:
            # SIGHUP, SIGQUIT, …
            if number != signal.SIGTERM and signal.getsignal(number) is _before:
                signal.signal(number, signal.SIG_DFL)
    for signum, handler in _HANDLERS:
        _signal.signal(signum, handler)


def _hold_signals() -> None:
    """Let signals wait while this thread forks: Python forgets in the new process those for which
    there is a handler, and one may come before its first line (multiprocessing's `terminate`)."""
    _held.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _OWN_SIGNALS)


def _release_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _held.mask)


def _be_ordinary() -> None:
    global _is_busy, _is_interruptible, _is_listening
    _is_busy = _is_interruptible = _is_listening = False
    for name in _OWN_SIGNALS:
        signal.signal(name, signal.SIG_DFL)
    _release_signals()


class busy:  # noqa: N801 (used as a function; generators cost three times as much, and this is in every step's way)
    """Let this child outlive SIGTERM inside the block: its worker's main process decides about
    it."""

    def __init__(self, attempt: AttemptId) -> None:
        self._attempt = attempt

    def __enter__(self) -> None:
        global _is_busy, _is_asked, _is_stopping, _attempt
        if _is_listening:
            note_terminated(False)
            _is_busy, _is_asked, _is_stopping, _attempt = True, False, False, self._attempt
            # anew: a step before may have taken the signals for itself, unseen by Python
            # (faulthandler)
            _listen()

    def __exit__(self, *raised: object) -> None:
        global _is_busy
        _is_busy = False


class interruptible:  # noqa: N801 (as above)
    """Let the step inside be stopped. After the block its work is over, and the record must be
    written whole."""

    def __enter__(self) -> None:
        global _is_interruptible
        _is_interruptible = _is_listening and threading.current_thread() is threading.main_thread()

    def __exit__(self, *raised: object) -> None:
        global _is_interruptible
        _is_interruptible = False


def _stop(signum: int, frame: FrameType | None) -> None:
    """Takes no lock: what it interrupts may hold any."""
    global _is_interruptible, _is_asked, _is_stopping
    if not _is_busy or (
        signum == signal.SIGUSR1 and has_call_ended() and is_announced(_attempt, signum)
    ):
        return  # a timeout that came too late
    may_raise = _is_interruptible and not _is_importing(frame)
    if is_announced(_attempt, signum):
        _is_asked = _is_stopping = True
        if may_raise:
            _is_interruptible = False
            raise StopRequested(is_timeout=signum == signal.SIGUSR1)
    elif is_announced(_attempt, signal.SIGTERM):
        # our main process says so: it cannot send that signal again
        if may_raise:
            note_terminated(False)
            raise SignalReceived(_RECEIVED.format(signal_name(signal.SIGTERM)))
    elif may_raise:
        raise SignalReceived(_RECEIVED.format(signal_name(signum)))
    else:
        os.write(2, f"{_RECEIVED.format(signal_name(signum))}; ignored at this point\n".encode())


def _is_importing(frame: FrameType | None) -> bool:
    while frame:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _terminate(signum: int, frame: FrameType | None) -> None:
    global _is_asked
    if _is_busy:
        _is_asked = True
        note_terminated(True)
    elif callable(_before):
        _before(signum, frame)
    else:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)


_HANDLERS = (
    (int(signal.SIGUSR1), _stop),
    (int(signal.SIGUSR2), _stop),
    (int(signal.SIGTERM), _terminate),
)
