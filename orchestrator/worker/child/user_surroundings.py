"""What a step's own code finds around it: its modules, its Celery app, its memory and threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator.ledger.values import Claim
from orchestrator.settings.sources import current_settings
from orchestrator.worker.celery_inside.user_apps import user_celery_app
from orchestrator.worker.child.code_check import CodeCheck
from orchestrator.worker.child.server_in_steps import server_as_the_pool_says
from orchestrator.worker.child.user_code import UserCode
from orchestrator.worker.memory import limit_memory
from orchestrator.worker.process import WorkerProcess
from orchestrator.worker.thread_shares import limit_threads, threads_of

_user_code = UserCode()


def code_check(process: WorkerProcess, run_id: str, claim: Claim) -> CodeCheck:
    """Return the check of the code that an attempt runs."""
    return CodeCheck(process, run_id, claim, _user_code)


@contextmanager
def user_surroundings(claim: Claim) -> Iterator[None]:
    """Hold inside the block what the step's code, its inputs and its pool ask for."""
    settings, spec = current_settings(), claim.spec
    options, pool = spec.options, spec.pool
    with (
        _user_code.of(claim.import_path, spec.module),
        user_celery_app(settings, pool),
        server_as_the_pool_says(settings, pool),
    ):
        limit_memory(options.get("memory"))
        limit_threads(options.get("threads") or threads_of(settings, pool))
        yield
