"""How an attempt ends that does not succeed, as the errors that pass from a child to the worker's
main process."""

from __future__ import annotations

from celery.exceptions import Ignore

from orchestrator.worker.masking import Masks


class AttemptFailed(Exception):
    """An attempt failed; the text says with what. Carries text only, so that it passes between any
    processes."""


class AttemptStopped(AttemptFailed):
    """An attempt was stopped from outside."""


class AttemptRetrying(AttemptFailed):
    """An attempt failed and the step is tried again `in_s` seconds from now."""

    def __init__(self, text: str, in_s: float = 0.0) -> None:
        super().__init__(text)
        self.in_s = in_s


class AttemptHindered(AttemptFailed):
    """An attempt met a fault of its host; its worker's main process hears of it by this."""

    def __init__(self, text: str, needed_bytes: int = 0) -> None:
        super().__init__(text, needed_bytes)
        self.needed_bytes = needed_bytes

    def __str__(self) -> str:
        return str(self.args[0])


class OwnFailure(Exception):
    """Our own code has failed at an attempt, by the error that is the cause; `masks` are for what
    is said of it."""

    def __init__(self, masks: Masks) -> None:
        super().__init__()
        self.masks = masks


class MessageDropped(Ignore):  # type: ignore[misc]
    """A message that ran nothing: of a run that is not there, of a step that is not due, or the
    second of its kind."""
