"""What signals do in our processes when they begin, and in the commands that they start.

Ignored signals and the mask of blocked ones are inherited by every program that is started, so a
careless parent would decide how we and all our steps behave: with SIGCHLD ignored no exit status is
known, with SIGTERM blocked nothing ends.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

_OF_PYTHON = frozenset({signal.SIGPIPE, signal.SIGXFSZ})
"""Python ignores these itself, and `subprocess` gives them back their default in what it starts."""

KEPT = frozenset({signal.SIGHUP, signal.SIGINT})
"""Ignored on purpose: SIGHUP by `nohup`, SIGINT by a shell that starts something in the
background."""


def begin_with_own_signals() -> None:
    """Set every signal that was inherited as ignored to its default, but for `KEPT`, and unblock
    all of them.

    Nothing is done in a thread other than the main one, where Python allows no such thing.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in _ignored() - KEPT:
        signal.signal(number, signal.SIG_DFL)
    if signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL:
        # also without SA_NOCLDWAIT, which Python does not show
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def heeded(*numbers: signal.Signals) -> list[signal.Signals]:
    """Return those of the signals that were not ignored when this process began: the others are not
    for it."""
    return [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]


@contextlib.contextmanager
def default_signals() -> Iterator[None]:
    """Let what is started inside the block begin with every signal at its default and none blocked.

    A handler becomes the default when another program begins, an ignored signal stays ignored. So
    handlers that do nothing stand in for the ignored ones meanwhile. In the main thread only.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ignored = _ignored()
    blocked = signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in ignored:
        signal.signal(number, _do_nothing)
    try:
        yield
    finally:
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _do_nothing(*_: object) -> None:
    pass


def _ignored() -> frozenset[int]:
    found = {
        number for number in signal.valid_signals() if signal.getsignal(number) == signal.SIG_IGN
    }
    return frozenset(found - _OF_PYTHON)
