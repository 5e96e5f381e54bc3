"""How our own long-running processes are started: by module, with a `sys.path` that holds nothing
of the user's.

`-P` keeps the working folder off the path of that one process. PYTHONSAFEPATH would reach
everything that steps start.
"""

from __future__ import annotations

import sys

WORKER = "orchestrator.worker"
FLOWER = "orchestrator.worker.flower"


def service_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs one of our packages as a process of its own."""
    return [sys.executable, "-P", "-m", module, *arguments]
