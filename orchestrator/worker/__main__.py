"""A worker as a process: `python -P -m orchestrator.worker [--app MODULE] OPTION…`, with Celery's
options.

Celery gets its app as an object: `celery -A` would put the working folder first on `sys.path`,
where any file of the user's could stand in for a module of ours, of Celery's or of Python's.
"""

from __future__ import annotations

import importlib
import sys
from typing import NoReturn

from orchestrator.secrecy import receive

APP = "orchestrator.worker.app"


def main(arguments: list[str]) -> NoReturn:
    """Run the worker until it is told to end, and exit with its code."""
    arguments = receive(arguments)
    module = APP
    if arguments[:1] == ["--app"]:
        module, arguments = arguments[1], arguments[2:]
    app = importlib.import_module(module).app

    from celery.bin.worker import worker

    from orchestrator.messages.app import run_command

    run_command(app, worker, arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
