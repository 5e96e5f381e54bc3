"""The command as a process: `orchestrator`, or `python -m orchestrator` where that is not on the
path."""

from __future__ import annotations

import atexit
import gc


def main() -> None:
    """Run the command, without collections that cost a short one a sixth of its time."""
    gc.disable()  # while modules are imported; the command enables it
    atexit.register(gc.freeze)  # nothing has to be looked through at the end
    from orchestrator.cli.main import main as command

    command(prog_name="orchestrator")


if __name__ == "__main__":
    main()
