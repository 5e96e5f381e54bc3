"""What a step may ask about the attempt that runs it: `from orchestrator import context`.

Outside of an attempt (a step called as the plain function) there is none: `context.should_stop` is
False then, and the rest raises NotInAttempt. Workers set the attempt; nothing here knows how.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from orchestrator.attempt_id import AttemptId


class NotInAttempt(RuntimeError):
    """No attempt is running here: the step was called as the plain function."""


class StopRequested(BaseException):
    """Raised inside a step that has to end: it timed out, or was cancelled, or its worker ends.

    No Exception, so that `except Exception` lets it pass; tidy up in `finally`, within the setting
    timeout_grace_s. `is_timeout` says whether that is why.
    """

    def __init__(self, *, is_timeout: bool = False) -> None:
        super().__init__("the attempt's time is up" if is_timeout else "the attempt is to end")
        self.is_timeout = is_timeout


class HandedOver(BaseException):
    """Raised by `context.hand_over()`: the attempt ends here, and another worker goes on with the
    step."""


@dataclass(slots=True)
class Attempt:
    """An attempt as its step sees it. The folder of `checkpoint_dir` is made when it is asked
    for."""

    id: AttemptId
    token: int
    worker: str
    checkpoint_dir: Callable[[], Path]
    should_stop: Callable[[], bool]
    has_checkpoints: bool = False


class Context:
    """The attempt that runs in this thread. One object for all: it looks up whose thread it is at
    every question."""

    @property
    def is_active(self) -> bool:
        """Whether an attempt is running here."""
        return _here() is not None

    @property
    def run_id(self) -> str:
        return self._attempt.id.run_id

    @property
    def step(self) -> str:
        return self._attempt.id.step

    @property
    def attempt(self) -> int:
        """Number of this attempt, from 1."""
        return self._attempt.id.attempt

    @property
    def token(self) -> int:
        """Fencing token of this attempt: it grows with every attempt that begins in the run.

        A service that keeps the largest token seen can refuse what an attempt that was taken for
        lost still writes.
        """
        return self._attempt.token

    @property
    def worker(self) -> str:
        return self._attempt.worker

    @property
    def should_stop(self) -> bool:
        """Whether the step had better save its work and end: its worker was told to end, or the
        step itself was."""
        attempt = _here()
        return attempt is not None and attempt.should_stop()

    @property
    def checkpoint_dir(self) -> Path:
        """Return a folder for this step's checkpoints, made if need be.

        It is the same for all attempts of the step in its run, on whatever worker (all see the same
        artifact folder), and is removed when the step has succeeded.
        """
        attempt = self._attempt
        folder = attempt.checkpoint_dir()
        folder.mkdir(parents=True, exist_ok=True)
        attempt.has_checkpoints = True
        return folder

    def hand_over(self) -> NoReturn:
        """End this attempt here and let another one go on, as after saving a checkpoint because of
        `should_stop`.

        It counts neither as a failure nor as lost.
        """
        raise HandedOver(f"step {self._attempt.id.step!r} handed over")

    @property
    def _attempt(self) -> Attempt:
        attempt = _here()
        if attempt is None:
            raise NotInAttempt(
                "no attempt is running here: the step was called as a plain function, outside of"
                " a run"
            )
        return attempt

    def __repr__(self) -> str:
        attempt = _here()
        return (
            f"<context of {attempt.id.step!r}, attempt {attempt.id.attempt}>"
            if attempt
            else "<context of no attempt>"
        )


context = Context()
_current: ContextVar[Attempt | None] = ContextVar("attempt", default=None)
# of a process that runs one attempt at a time: its step may ask from threads of its own
_only: Attempt | None = None


def _here() -> Attempt | None:
    return _current.get() or _only


class attempt_context:  # noqa: N801 (used as a function; a generator would cost every step three times as much)
    """Let the context be that attempt inside the block; for workers. `is_only`: no other runs here
    meanwhile."""

    __slots__ = ("_attempt", "_is_only", "_mark")

    def __init__(self, attempt: Attempt, *, is_only: bool) -> None:
        self._attempt, self._is_only = attempt, is_only

    def __enter__(self) -> None:
        global _only
        self._mark = _current.set(self._attempt)
        if self._is_only:
            _only = self._attempt

    def __exit__(self, *raised: object) -> None:
        global _only
        _current.reset(self._mark)
        if self._is_only:
            _only = None
