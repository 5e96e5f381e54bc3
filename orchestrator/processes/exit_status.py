"""How a process of ours ended, where the status that cannot be known is never taken for success.

The kernel keeps a child's exit status for its parent alone, and hands it out once. When SIGCHLD is
ignored nothing is kept, and other code of the same process may have fetched it (`waitpid(-1)`).
`subprocess` reports 0 in both cases.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time

UNKNOWN_EXIT = 511
"""The return code of a process whose status is lost: no process can end with it, and `sys.exit`
makes 255 of it."""

_PAUSE_S = 0.01


class KnownChild(subprocess.Popen[bytes]):
    """A `Popen` whose `returncode` is `UNKNOWN_EXIT` where that of `subprocess` would be an
    unfounded 0."""

    _reaping: threading.Lock  # one thread at a time: the other one would find the status gone

    def poll(self) -> int | None:
        """Return the exit code, None while the process runs."""
        self._reap(os.WNOHANG)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code once the process has ended. Raise subprocess.TimeoutExpired."""
        if timeout is None:
            while self.returncode is None:
                self._reap(0)
            return self.returncode
        limit = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > limit:
                raise subprocess.TimeoutExpired(self.args, timeout)
            time.sleep(_PAUSE_S)
        return self.returncode

    def _reap(self, options: int) -> None:
        lock = self.__dict__.setdefault("_reaping", threading.Lock())
        if not lock.acquire(blocking=options != os.WNOHANG):
            return  # somebody waits for it already
        try:
            if self.returncode is None:
                pid, status = os.waitpid(self.pid, options)
                if pid:
                    self.returncode = os.waitstatus_to_exitcode(status)
        except ChildProcessError:
            self.returncode = UNKNOWN_EXIT
        finally:
            lock.release()


def how_it_ended(code: int) -> str:
    """Return what a return code says, as "ended with exit code 3"."""
    if code == UNKNOWN_EXIT:
        return (
            "ended, and its exit status is not known: SIGCHLD is ignored in the process that"
            " started it, or other code there took the status (os.waitpid(-1))"
        )
    if code < 0:
        return f"was killed by signal {-code} ({signal_name(-code)})"
    return f"ended with exit code {code}"


def code_text(code: int) -> str:
    """Return a return code for a bracket, as "code 3"."""
    return f"code {code}" if code != UNKNOWN_EXIT else "its exit status is not known"


def signal_name(number: int) -> str:
    """Return a signal's name, as "SIGTERM", or "signal 40" for one that has none."""
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
