"""What a command writes to a terminal."""

from __future__ import annotations

import os
import select
import time


def read_to_the_end(descriptor: int, until: str | None = None, within_s: float = 30.0) -> str:
    """Return what comes until the other side is closed, or until a text has come."""
    data, limit = b"", time.monotonic() + within_s
    while until is None or until not in data.decode(errors="replace"):
        assert time.monotonic() < limit, data
        if not select.select([descriptor], [], [], 1.0)[0]:
            continue
        try:
            read = os.read(descriptor, 65536)
        except OSError:  # what Linux says when the other side is closed
            break
        if not read:
            break
        data += read
    return data.decode(errors="replace")
