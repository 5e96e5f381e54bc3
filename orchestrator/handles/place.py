"""Where a Python program runs its pipelines: opened when it is first needed, warm until it ends."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from orchestrator.coordinator.coordinator import Coordinator
from orchestrator.installation import Installation, open_installation
from orchestrator.ledger.presence import refuse_older
from orchestrator.local.worker import LocalWorker, local_worker
from orchestrator.runs.workplace import RETRIES, own_slots
from orchestrator.settings.model import Settings
from orchestrator.settings.sources import current_settings


@contextmanager
def _coordinating(installation: Installation) -> Iterator[None]:
    """Let a coordinator do its rounds in a thread, so that a run goes on that nobody waits for."""
    coordinator = Coordinator(installation.ledger, installation.app, installation.settings)
    stopped = threading.Event()
    thread = threading.Thread(
        target=coordinator.serve, args=[stopped], name="coordinator", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


class Place:
    """A server and, when something is to run on the embedded one, workers of our own and a
    coordinator."""

    def __init__(self, settings: Settings | None = None) -> None:
        self._stack, self._lock = ExitStack(), threading.Lock()
        self._pid = os.getpid()
        self.installation: Installation = self._stack.enter_context(
            open_installation(RETRIES, settings)
        )
        self._local: LocalWorker | None = None

    @property
    def is_ours(self) -> bool:
        """Whether this process has opened it, and not one from which it was forked."""
        return self._pid == os.getpid()

    def workers(self) -> LocalWorker | None:
        """Return workers of our own, started if need be; None when a server is configured, whose
        workers run the steps."""
        settings = self.installation.settings
        if settings.redis_url is not None:
            return None
        with self._lock:
            if self._local is None:
                ledger = self.installation.ledger
                refuse_older(ledger.client, ledger.prefix)
                url = self.installation.redis_url
                self._local = self._stack.enter_context(local_worker(settings, url, own_slots()))
                self._stack.enter_context(_coordinating(self.installation))
            return self._local

    def workers_there(self) -> LocalWorker | None:
        """Return workers of our own, if they were started."""
        return self._local

    def settings_to_run(self) -> Settings:
        """Return the settings by which a run is submitted here."""
        local = self.workers()
        return local.settings if local else self.installation.settings

    def close(self) -> None:
        self._stack.close()


_place: Place | None = None
_lock = threading.Lock()


def here() -> Place:
    """Return the place of this process. Raises ServerUnreachable, EmbeddedServerError."""
    global _place
    with _lock:
        if _place is None or not _place.is_ours:
            _place = Place()
            atexit.register(close)
        return _place


def settle(settings: Settings) -> None:
    """Let this process run its pipelines by these settings from now on, until `close`."""
    global _place
    close()
    with _lock:
        _place = Place(settings)


def close() -> None:
    """Stop the workers and the server that this program has started for itself. The next call that
    needs them starts them again."""
    global _place
    with _lock:
        if _place is not None and _place.is_ours:
            _place.close()
        _place = None
        current_settings.cache_clear()
