"""What the main process of a worker knows of the fitness of its host."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable

from orchestrator.artifacts.faults import HostFault
from orchestrator.artifacts.values import ArtifactStore


class HostState:
    """What keeps this host from doing steps; "" if nothing does. In the main process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.fault = ""
        self.paused_queues: tuple[str, ...] = ()
        self._needed_bytes = 0
        self._listeners: list[Callable[[], None]] = []

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever the state has changed; it must not wait."""
        self._listeners.append(listener)

    def note(self, fault: str, needed_bytes: int) -> None:
        """Note that an attempt has met a fault of the host."""
        with self._lock:
            is_new = not self.fault
            self._needed_bytes = max(self._needed_bytes, needed_bytes)
            self.fault = self.fault or fault
        if is_new:
            self._report()

    def check(self, store: ArtifactStore) -> bool:
        """Look whether the fault is gone."""
        try:
            store.files.check(self._needed_bytes)
            with tempfile.TemporaryFile() as file:
                file.write(b"x")
                file.flush()
        except (HostFault, OSError) as error:
            self.fault = str(error)
            return False
        with self._lock:
            self.fault, self._needed_bytes = "", 0
        self._report()
        return True

    def _report(self) -> None:
        for listener in self._listeners:
            listener()


host_state = HostState()
