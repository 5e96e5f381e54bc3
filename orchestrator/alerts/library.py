"""Apprise: imported when there is something to send or to check, and heard by nobody but us.

What it logs may hold tokens and passwords, so none of it goes to the logs; callers that ask for it
hides them.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING

from orchestrator.definition.folders import users_folders_aside

if TYPE_CHECKING:
    from orchestrator.alerts.message import Message
    from orchestrator.alerts.targets import AlertTarget

# at DEBUG they write down paths and tokens
TALKATIVE_LOGGERS = (
    "urllib3",
    "requests_oauthlib",
    "oauthlib",
)


@cache
def load_apprise() -> ModuleType:
    """Import Apprise with all its services, and take over what it logs."""
    with users_folders_aside():
        import apprise

        apprise.manager_plugins.NotificationManager().load_modules()  # type: ignore[no-untyped-call]

    logger = logging.getLogger("apprise")
    logger.setLevel(logging.WARNING)
    logger.addFilter(_log_listener)
    for name in TALKATIVE_LOGGERS:
        logging.getLogger(name).setLevel(logging.INFO)
    return apprise


def send(target: AlertTarget, message: Message) -> str:
    """Send to the target, and return why that failed; an empty text when it did not. Takes as
    long as the service takes."""
    if target.fault:
        return target.fault
    apprise = load_apprise()
    with listening() as heard:
        try:
            teller = apprise.Apprise(asset=target.service.asset)
            teller.add(target.service)
            is_told = teller.notify(
                body=message.body,
                title=message.title,
                notify_type=apprise.NotifyType.FAILURE,
                body_format=apprise.NotifyFormat.TEXT,
            )
        except Exception as error:  # of the service's own code
            heard.append(f"{type(error).__name__}: {error}")
            is_told = False
    if is_told:
        return ""
    return target.hide(heard[-1]) if heard else "the service refused it and said no reason"


@contextmanager
def listening() -> Iterator[list[str]]:
    """Return the list that fills with what Apprise logs in this thread inside the block."""
    heard: list[str] = []
    _log_listener.heard.texts = heard
    try:
        yield heard
    finally:
        del _log_listener.heard.texts


class _LogListener(logging.Filter):
    """Takes every record to who listens in its thread, and lets none through."""

    def __init__(self) -> None:
        super().__init__()
        self.heard = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        texts = getattr(self.heard, "texts", None)
        if texts is not None:
            texts.append(record.getMessage())
        return False


_log_listener = _LogListener()
