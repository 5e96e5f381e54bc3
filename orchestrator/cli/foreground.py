"""A run in the foreground: its workers, its progress, its end, and how Ctrl-C stops it. For `run`
and `resume`."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import click

from orchestrator.attempt_id import AttemptId
from orchestrator.cli.answer import answer
from orchestrator.cli.main import INTERRUPTED
from orchestrator.cli.progress import progress_for
from orchestrator.cli.summary import summary_text
from orchestrator.errors import LocalWorkerError
from orchestrator.installation import Installation
from orchestrator.ledger.events import Event
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.states import RunState, StepState
from orchestrator.ledger.values import OwnedAttempt
from orchestrator.local.worker import LocalWorker
from orchestrator.processes.dispositions import heeded
from orchestrator.record.as_json import record_json
from orchestrator.record.run import RunRecord, complete, read_record, read_skeleton
from orchestrator.runs.cancelling import unwatch_if_over
from orchestrator.runs.following import finish_alerts, follow
from orchestrator.runs.log_following import LogFollower
from orchestrator.settings.model import Settings
from orchestrator.wording import are

NOT_SUCCEEDED = 1
STOPPING_SLACK_S = 3.0  # beyond the grace of steps that are asked to stop


class StopRequests:
    """Counts how often we were asked to stop. The first time raises KeyboardInterrupt; the
    second one hurries the clean-up."""

    def __init__(self) -> None:
        self.count = 0
        self.reason = "interrupted by Ctrl-C"

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.count == 1 and signum != signal.SIGINT:
            self.reason = f"its orchestrator run was ended by {signal.Signals(signum).name}"
        if self.count != 2:  # a third one ends even a clean-up that hangs
            raise KeyboardInterrupt

    def is_repeated(self) -> bool:
        """Whether we were asked again: then nothing is waited for any longer."""
        return self.count > 1


@contextlib.contextmanager
def stop_signals() -> Iterator[StopRequests]:
    """Take SIGTERM and a lost terminal as Ctrl-C, so that every way to stop us cleans up."""
    stop_requests = StopRequests()
    names = heeded(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(name, stop_requests) for name in names]
    try:
        yield stop_requests
    finally:
        for name, handler in zip(names, before, strict=True):
            signal.signal(name, handler)
        sys.stdout.flush()


def workers_option() -> Callable[[Any], Any]:
    return click.option(
        "--workers",
        type=click.IntRange(min=1),
        metavar="N",
        help="Steps to run at a time (default: as many as cores, at least 2).",
    )


def logs_option() -> Callable[[Any], Any]:
    return click.option(
        "--logs", "with_logs", is_flag=True, help="Show what the steps print, while they run."
    )


def warn_of_slots(settings: Settings, slots: int | None) -> None:
    """Say so when --workers has no effect."""
    if settings.redis_url and slots:
        click.echo(
            "--workers has no effect: with ORCHESTRATOR_REDIS_URL that server's workers run the"
            " steps",
            err=True,
        )


def follow_to_the_end(
    installation: Installation,
    local: LocalWorker | None,
    stop_requests: StopRequests,
    run_id: str,
    begin: Callable[[], object],
    *,
    after: str = "0",
    as_json: bool,
    with_logs: bool = False,
) -> tuple[RunRecord, int]:
    """Let a run begin, follow it to its end, and return its record and the exit code. `after` is
    its last event so far.

    Ctrl-C cancels it in the ledger first; then what runs is stopped with grace, and at last our own
    workers.
    """
    ledger, record = installation.ledger, None
    try:
        begin()
        record = read_skeleton(ledger, run_id)
        record.apply(_events_until(ledger, run_id, after))
        logs = LogFollower(ledger, run_id) if with_logs else None
        with progress_for(record, is_quiet=as_json, logs=logs) as progress:
            follow(installation, record, progress, local, after)
        _end_workers(installation, local, run_id, stop_requests)
        code = 0 if record.state is RunState.SUCCEEDED else NOT_SUCCEEDED
    except KeyboardInterrupt:
        record = None  # it may have taken in half an event
        _cancel(installation, run_id, local, stop_requests)
        code = INTERRUPTED
    except BrokenPipeError:
        # who read our output has left, as `head` does: nobody waits for the run
        _cancel(installation, run_id, local, stop_requests, "nobody reads the output any more")
        raise
    except LocalWorkerError as error:
        click.echo(f"{type(error).__name__}: {error}", err=True)
        ledger.cancel(run_id, "the local worker ended")  # nobody is left who could go on with it
        _end_workers(installation, local, run_id, stop_requests, is_waiting=False)
        unwatch_if_over(installation, run_id)
        code = NOT_SUCCEEDED
    if record is None:
        record = read_record(ledger, run_id)
    else:
        complete(ledger, record)
    last_lines = {
        name: ledger.log_lines(AttemptId(run_id, name, step.attempts[-1].attempt))
        for name, step in record.steps.items()
        if step.state is StepState.FAILED and step.attempts
    }
    click.echo(summary_text(record, last_lines), err=as_json)
    if record.state is RunState.FAILED:
        _finish_alerts(installation, run_id)
    return record, code


def _finish_alerts(installation: Installation, run_id: str) -> None:
    """Wait, but not for long, for the alerts of a failed run. Ctrl-C leaves them to others."""
    with contextlib.suppress(KeyboardInterrupt):
        if finish_alerts(installation, run_id):
            return
    if run_id in installation.ledger.active_runs():
        click.echo(
            "not everybody could be notified yet that it failed: orchestrator serve goes on trying",
            err=True,
        )


def _events_until(ledger: Ledger, run_id: str, last: str) -> Iterator[Event]:
    if last != "0":
        for event in ledger.events(run_id):
            yield event
            if event.id == last:
                return


def finish(ctx: click.Context, record: RunRecord, code: int, as_json: bool) -> None:
    """Print the record if it was asked for, and exit."""
    if as_json:
        answer(json.dumps(record_json(record)))
    ctx.exit(code)


def _cancel(
    installation: Installation,
    run_id: str,
    local: LocalWorker | None,
    stop_requests: StopRequests,
    reason: str = "",
) -> None:
    """Cancel in the ledger first, then stop what we started."""
    stop_requests.count = max(1, stop_requests.count)  # from here on Ctrl-C only hurries us
    # the interrupted call may have left half an answer there
    installation.ledger.client.connection_pool.disconnect()
    if not installation.ledger.exists(run_id):
        raise KeyboardInterrupt
    installation.ledger.cancel(run_id, reason or stop_requests.reason)
    _end_workers(installation, local, run_id, stop_requests)
    unwatch_if_over(installation, run_id)


def _end_workers(
    installation: Installation,
    local: LocalWorker | None,
    run_id: str,
    stop_requests: StopRequests,
    *,
    is_waiting: bool = True,
) -> None:
    """Let workers stop what was cancelled, with grace; then end ours, and what still runs on
    them."""
    from orchestrator.runs.stopping import wait_until_stopped

    ledger = installation.ledger
    within_s = installation.settings.timeout_grace_s + STOPPING_SLACK_S if is_waiting else 0.0
    if is_waiting and not stop_requests.is_repeated() and (count := len(ledger.stopping(run_id))):
        hint = "; Ctrl-C again ends them at once" if local else ""
        click.echo(f"{are(count, 'step')} being stopped{hint}", err=True)
    left = wait_until_stopped(
        ledger, installation.settings, run_id, within_s, is_enough=stop_requests.is_repeated
    )
    if local is None:
        return
    # Celery's own shutdown would take three seconds, and nothing runs any more that should
    local.kill()
    now_us = ledger.now_us()
    for attempt in left:
        detail = {
            "reason": "cancelled",
            "how": "killed with its worker",
            "after_s": round((now_us - attempt.since_us) / 1e6, 3),
            "worker": attempt.worker,
        }
        ledger.report_stopped(
            OwnedAttempt(AttemptId(run_id, attempt.step, attempt.attempt), attempt.worker), detail
        )
