"""What a process does once before it runs steps: the user's working folder enters `sys.path`, and
Django is set up.

In a prefork pool that process is a child, and the worker's main process never imports anything of
the user's. Pools of threads and solo pools have only the main process.
"""

from __future__ import annotations

import os
import shlex
import sys
from typing import Any

from celery import Celery
from celery.utils.log import get_logger

from orchestrator.attempt_context import context
from orchestrator.definition.folders import put_on_path

logger = get_logger(__name__)

DJANGO_VARIABLE = "DJANGO_SETTINGS_MODULE"
_prepared_pid = 0


def prepare_for_steps(app: Celery) -> None:
    """Prepare this process, unless it is prepared already."""
    global _prepared_pid
    if _prepared_pid == os.getpid():
        return
    _prepared_pid = os.getpid()
    folder = os.getcwd()
    if folder not in sys.path:
        put_on_path(folder)
    sys.breakpointhook = _no_terminal
    if os.environ.get(DJANGO_VARIABLE):
        _set_up_django(app)


def _no_terminal(*args: Any, **kwargs: Any) -> Any:
    """Say where breakpoint() works, and go on; a debugger of PYTHONBREAKPOINT needs no terminal of
    ours."""
    if os.environ.get("PYTHONBREAKPOINT"):
        return sys.__breakpointhook__(*args, **kwargs)
    run_id, step = context.run_id, context.step
    print(
        "breakpoint() has no terminal on a worker, and was passed over. In yours it works:"
        f" orchestrator step {run_id} {shlex.quote(step)}",
        file=sys.stderr,
    )
    return None


def _set_up_django(app: Celery) -> None:
    """Do what Celery's fix-up does for steps: load the apps, and close what connections a step has
    used.

    Not by the fix-up as a whole, which also puts the working folder first on `sys.path`, in the
    main process too.
    """
    try:
        from celery.fixups.django import DjangoWorkerFixup

        fixup = DjangoWorkerFixup(app)
        fixup.django_setup()
        fixup.install()
    except (Exception, SystemExit) as error:
        module = os.environ[DJANGO_VARIABLE]
        logger.warning(
            "%s is %s, and Django cannot be set up with it: %s", DJANGO_VARIABLE, module, error
        )
