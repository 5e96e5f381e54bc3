"""What a step may change in the process that runs it, and how that is put back for the steps that
come after it.

A child runs steps of many runs, one after the other; threads share one process. Each aspect of it
(`process_aspects.py`) is read before a step and after it, and put back if the two differ. What
cannot be put back makes the child be replaced (`worker.renewal`). What nobody can see at a price
that every step would pay is not held: attributes that the step replaced in modules and classes, the
state of random generators, variables set by C code alone. docs/pipelines.md says so to users.

What the user's modules change when they are imported is not a step's doing: it would be missing at
the second step, for which nothing is imported again. It stays (`adopt`) until the modules are
dropped (`go_back`).

In a pool of threads only what belongs to the thread is held; the rest is shared with steps that are
running.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

from orchestrator.worker.child.logger_states import LoggerStates
from orchestrator.worker.child.process_aspects import ASPECTS, OF_PREFORK_ONLY, Aspect

_logger = logging.getLogger(__name__)


class ProcessState:
    """The state of this process around its steps, one at a time, and which of it imports have
    brought."""

    def __init__(self, aspects: tuple[Aspect, ...]) -> None:
        self._aspects = aspects
        self._before: list[Any] | None = None  # while a step runs
        # what the last step has left as it was: nothing of ours changes it
        self._between: list[Any] | None = None
        self._imported: dict[int, Any] = {}  # by aspect, what was there before the imports
        # Loggers are many. Between two steps nobody sets them up, so they are read once a step.
        self._loggers = LoggerStates()
        self._logging: tuple[Any, ...] | None = None

    def begin(self) -> None:
        if self._loggers.look() or self._logging is None:
            self._logging = self._loggers.keep()
        self._before, self._between = (
            self._between or [aspect.read() for aspect in self._aspects],
            None,
        )

    def end(self) -> list[str]:
        """Put back what has changed since `begin`; return the names of what could not be put
        back."""
        before, self._before = self._before, None
        if before is None:
            return []
        faults, has_changed = [], False
        for aspect, value in zip(self._aspects, before, strict=True):
            if aspect.read() != value:
                has_changed = True
                if not _is_put_back(aspect, value):
                    faults.append(aspect.name)
        self._between = None if has_changed else before
        if self._logging is not None and self._loggers.read() != self._logging:
            self._loggers.put_back(self._logging)
        return faults

    def adopt(self, *, are_of_user: bool = True) -> None:
        """Let what has changed in this step so far, by imports, stay."""
        if self._before is None:
            return
        for number, aspect in enumerate(self._aspects):
            if aspect.is_of_imports and (now := aspect.read()) != self._before[number]:
                if are_of_user:
                    self._imported.setdefault(number, self._before[number])
                self._before[number] = now
        self._loggers.look()
        self._logging = self._loggers.keep()

    def go_back(self) -> None:
        """Take back what was adopted, but for loggers: the modules that brought it are dropped."""
        self._between = None
        for number, value in self._imported.items():
            aspect = self._aspects[number]
            _is_put_back(aspect, value)
            if self._before is not None:
                self._before[number] = aspect.read()
        self._imported.clear()


def _is_put_back(aspect: Aspect, value: Any) -> bool:
    try:
        aspect.put_back(value)
    except Exception as error:
        _logger.warning(
            "a step has changed the %s, which cannot be put back: %s", aspect.name, error
        )
        return False
    return True


_state: ProcessState | None = None


def state_of_process(*, is_prefork: bool) -> ProcessState:
    """Return the one of this process."""
    global _state
    if _state is None:
        _state = ProcessState(
            tuple(aspect for aspect in ASPECTS if is_prefork or aspect.name not in OF_PREFORK_ONLY)
        )
    return _state


def adopt_imports(*, are_of_user: bool = True) -> None:
    """Let what the user's modules have changed when they were imported stay for the steps that
    follow.

    `are_of_user` is false for what we have changed ourselves: then it stays for good.
    """
    if _state and threading.current_thread() is threading.main_thread():
        _state.adopt(are_of_user=are_of_user)


def drop_imports() -> None:
    """Take back what the user's modules have changed when they were imported."""
    if _state and threading.current_thread() is threading.main_thread():
        _state.go_back()
