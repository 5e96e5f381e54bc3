"""Stopping an attempt from outside, with all that it started: ask, wait for the grace, kill, see
that it is gone.

Runs in threads of the worker's main process, which no user code can hold up. Only a process can be
stopped; in a pool of threads, and in the solo pool, a step is only asked (`context.should_stop`).
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from functools import partial

import psutil
from celery import Celery
from celery.utils.log import get_logger

from orchestrator.attempt_context import StopRequested
from orchestrator.ledger.values import Commit, Refusal, Replaced
from orchestrator.processes.tree import KILL_LIMIT_S, ProcessTree
from orchestrator.worker import call_clock
from orchestrator.worker.announcements import announce, is_terminated, withdraw
from orchestrator.worker.failures import commit_for
from orchestrator.worker.interruption import asked_in_thread, is_draining
from orchestrator.worker.log_file import ship_what_is_left
from orchestrator.worker.main.running import HANDED_OVER, TIMED_OUT, RunningAttempt, running
from orchestrator.worker.process import WorkerProcess, current_process

logger = get_logger(__name__)

OUT_OF_MEMORY = "out_of_memory"  # a reason beside those of `running`
ASK = {TIMED_OUT: signal.SIGUSR1}  # any other reason: SIGUSR2
OBEY_S = 0.5  # what a step has to end in once all that it had started is gone
LONGEST_GRACE_S = {OUT_OF_MEMORY: 0.5}  # it would take more and more meanwhile
PAUSE_S = 0.02
OWN_END_KNOWN_S = 1.0  # by then a worker that is told to end with its whole group knows it
ASK_AGAIN_S = 0.2  # a step that imports hears nothing (`worker.interruption`)


class _CallEnded(Exception):
    """The call ended before it could be stopped for its timeout: what it has come to is being
    recorded."""


def stop_soon(app: Celery, attempt: RunningAttempt, reason: str) -> threading.Thread | None:
    """Begin to stop an attempt, in a thread that is given back; None if it is being stopped already
    or has ended."""
    if not running.begin_stopping(attempt, reason):
        return None
    thread = threading.Thread(
        target=_stop, args=(app, attempt, reason), name=f"stop-{attempt.held.step}"
    )
    try:
        thread.start()
    except RuntimeError as error:  # no more threads: the step itself may have used them up
        logger.error(
            "run %s: step %s cannot be stopped now: %s",
            attempt.held.run_id,
            attempt.held.step,
            error,
        )
        running.give_up_stopping(attempt)
        return None
    return thread


def _stop(app: Celery, attempt: RunningAttempt, reason: str) -> None:
    process = current_process(app)
    try:
        if attempt.pid == os.getpid():
            _stop_thread(process, attempt, reason)
        else:
            _stop_process(process, attempt, reason)
    except _CallEnded:
        running.give_up_stopping(attempt)
        withdraw(attempt.pid, attempt.held.id, ASK[TIMED_OUT])
    except Exception:
        logger.exception(
            "run %s: step %s could not be stopped", attempt.held.run_id, attempt.held.step
        )
        running.give_up_stopping(attempt)
    else:
        running.end_stopping(attempt)
    finally:
        if attempt.ended.is_set():
            withdraw(attempt.pid, attempt.held.id, ASK.get(reason, signal.SIGUSR2))


def pass_on_terminations() -> None:
    """Let steps fail whose child somebody has sent SIGTERM, which a child alone takes for the
    worker's end.

    That is known after a while only: when a whole group is told to end, the child may hear of it
    before us.
    """
    now = time.monotonic()
    for attempt in running:
        if attempt.pid == os.getpid():
            continue
        if not is_terminated(attempt.pid) or is_draining():
            if attempt.terminated_at:
                withdraw(attempt.pid, attempt.held.id, signal.SIGTERM)
            attempt.terminated_at = None
        elif attempt.terminated_at is None:
            attempt.terminated_at = now
        elif now - attempt.terminated_at > OWN_END_KNOWN_S:
            with running.lock, suppress(ProcessLookupError):
                if running.is_running(attempt):
                    announce(attempt.pid, attempt.held.id, signal.SIGTERM)
                    os.kill(attempt.pid, signal.SIGUSR2)


def _stop_process(process: WorkerProcess, attempt: RunningAttempt, reason: str) -> None:
    began, longest_s = time.monotonic(), LONGEST_GRACE_S.get(reason, math.inf)
    grace_s = min(process.settings.timeout_grace_s, longest_s)
    worker = attempt.held.worker
    with running.lock:
        # Once it has ended, what its process has started may be another attempt's.
        tree = ProcessTree(attempt.pid) if running.is_running(attempt) else None
        _leave_if_its_call_has_ended(attempt, reason)
        if tree:
            _ask(attempt, reason)
    if tree is None:
        alone = {"reason": reason, "how": "it ended by itself", "worker": worker}
        return _report(process, attempt, reason, alone, "")
    tree.terminate()
    limit, asks_at = began + grace_s, began + ASK_AGAIN_S
    while (_left(tree, attempt) or not attempt.ended.is_set()) and (
        now := time.monotonic()
    ) < limit:
        _leave_if_its_call_has_ended(attempt, reason)
        if now >= asks_at:
            asks_at = now + ASK_AGAIN_S
            with running.lock:
                if running.is_running(attempt):
                    _ask(attempt, reason)
        time.sleep(PAUSE_S)
    if left := _left(tree, attempt):
        # The step itself may have obeyed, and only wait for what it had started.
        tree.kill(OBEY_S)
        attempt.ended.wait(OBEY_S)
    if _halt(attempt):
        is_gone = tree.kill(KILL_LIMIT_S, partial(_kill_child, attempt, reason))
        if not attempt.was_killed:
            _leave_if_its_call_has_ended(attempt, reason)
    else:
        is_gone = not _left(tree, attempt) or tree.kill(KILL_LIMIT_S)
    was_polite = not attempt.was_killed
    how = f"killed after a grace of {grace_s:g} s"
    if was_polite:
        how = f"it ended when asked{f'; what it had started was {how}' if left else ''}"
    detail = {
        "reason": reason,
        "how": how if is_gone else f"{how}; some of its processes cannot be killed",
        "after_s": round(time.monotonic() - began, 3),
        "processes": tree.size + 1,
        "worker": worker,
    }
    logger.warning(
        "run %s: attempt %d of step %s was stopped (%s): %s",
        attempt.held.run_id, attempt.held.attempt, attempt.held.step, reason, detail["how"],
    )  # fmt: skip
    deaf = "" if was_polite else f"; it did not stop when asked and was {how}"
    return _report(process, attempt, reason, detail, deaf)


def _ask(attempt: RunningAttempt, reason: str) -> None:
    """Signal the process of an attempt; `running.lock` is held and the attempt runs, so it is no
    other attempt's."""
    signum = ASK.get(reason, signal.SIGUSR2)
    announce(attempt.pid, attempt.held.id, signum)
    with suppress(ProcessLookupError):
        os.kill(attempt.pid, signum)


def _left(tree: ProcessTree, attempt: RunningAttempt) -> list[psutil.Process]:
    """Return what still runs of the tree. Once the attempt has ended, what its process starts is
    another attempt's."""
    with running.lock:
        if running.is_running(attempt):
            return tree.look()
    tree.let_go()
    return tree.look()


def _halt(attempt: RunningAttempt) -> bool:
    """Halt the attempt's process, so that it can neither end the attempt nor begin another; False
    if it has ended."""
    with running.lock:
        if not running.is_running(attempt):
            return False
        with suppress(ProcessLookupError):
            os.kill(attempt.pid, signal.SIGSTOP)
        return True


def _leave_if_its_call_has_ended(attempt: RunningAttempt, reason: str) -> None:
    """Raise _CallEnded if a timeout came too late: the attempt may wait for server or store as long
    as it must."""
    if reason == TIMED_OUT and not attempt.ended.is_set() and attempt.call_s() is None:
        raise _CallEnded


def _kill_child(attempt: RunningAttempt, reason: str) -> bool:
    """Kill the attempt's process; False if the attempt, or in case of a timeout its call, ended
    just before it was halted: then the process goes on."""
    with running.lock, suppress(ProcessLookupError):
        attempt.was_killed = running.is_running(attempt) and not (
            reason == TIMED_OUT and attempt.call_s() is None
        )
        os.kill(attempt.pid, signal.SIGKILL if attempt.was_killed else signal.SIGCONT)
    return attempt.was_killed


def _stop_thread(process: WorkerProcess, attempt: RunningAttempt, reason: str) -> None:
    """Ask a step that runs in a thread of this process, and wait for it: nothing can end it."""
    held = attempt.held
    began = time.monotonic()
    logger.warning(
        "run %s: attempt %d of step %s should stop (%s), but its pool cannot end a step: "
        "it is asked, and waited for",
        held.run_id, held.attempt, held.step, reason,
    )  # fmt: skip
    with ExitStack() as asking:
        with call_clock.asking:
            _leave_if_its_call_has_ended(attempt, reason)
            asking.enter_context(asked_in_thread(held.id))
        if reason == HANDED_OVER:
            return _report(process, attempt, reason, {}, "")  # the worker ends next
        attempt.ended.wait()
    detail = {
        "reason": reason,
        "how": "it ended by itself: its pool cannot end a step",
        "after_s": round(time.monotonic() - began, 3),
        "processes": 0,
        "worker": held.worker,
    }
    return _report(
        process, attempt, reason, detail, "; its pool cannot end a step, so it was waited for"
    )


def _report(
    process: WorkerProcess,
    attempt: RunningAttempt,
    reason: str,
    detail: Mapping[str, object],
    told_of_timeout: str,
) -> None:
    held = attempt.held
    answer: Commit | Replaced | Refusal
    if attempt.was_killed:
        with suppress(Exception):  # a log is less than the record of the end
            ship_what_is_left(
                attempt.log, held, process.ledger, process.settings.log_lines_per_attempt
            )
    if reason == HANDED_OVER:
        answer = process.ledger.hand_over(held.id, "its worker ended", owner=held.owner)
    elif reason == OUT_OF_MEMORY and attempt.failure:
        answer = commit_for(process, held, attempt.failure)
    elif reason == TIMED_OUT:
        # Refused if the child could commit this itself, with the traceback of where it was.
        answer = commit_for(process, held, StopRequested(is_timeout=True), told_of_timeout)
    else:
        return process.ledger.report_stopped(held, detail)
    if isinstance(answer, Refusal):
        # its step may have been cancelled meanwhile
        process.ledger.report_stopped(held, detail, ended_alone=True)
    else:
        process.dispatcher.send(held.run_id, answer.ready)
    return None
