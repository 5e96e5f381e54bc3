"""A run in the foreground: its workers, its progress, its end, and how Ctrl-C stops it. For `run` and `resume`."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import click

from orchestrator.cli.answer import answer
from orchestrator.cli.main import INTERRUPTED
from orchestrator.cli.progress import Progress, progress_for
from orchestrator.cli.session import Session, open_session
from orchestrator.cli.summary import summary_text
from orchestrator.cores import available_cores
from orchestrator.errors import LocalWorkerError
from orchestrator.ledger.events import RUN_ENDS, Event, EventKind
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.presence import SIGN_OF_LIFE_S, announce_follower, withdraw_follower
from orchestrator.ledger.states import RunState, StepState
from orchestrator.ledger.values import Held
from orchestrator.local.workers import LocalWorkers, local_workers
from orchestrator.processes.dispositions import heeded
from orchestrator.record.as_json import record_json
from orchestrator.record.run import RunRecord, read_record, read_skeleton
from orchestrator.settings.model import Settings

NOT_SUCCEEDED = 1
POOLS_LOOK_S = 2.0
EVENTS_PAUSE_S = 0.05
RETRIES = 30  # of a call while the server is away, up to 2 s apart
FIRST_LOOK_S = 0.5
LOCAL_START_S = 10.0  # a worker of our own that is just starting needs no warning
STOPPING_SLACK_S = 3.0  # beyond the grace of steps that are asked to stop


class Interruption:
    """How often we were told to stop. The first time raises KeyboardInterrupt; the second one is for who cleans up."""

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
        """Whether we were told again: then nothing is waited for any longer."""
        return self.count > 1


@contextlib.contextmanager
def stop_signals() -> Iterator[Interruption]:
    """Take SIGTERM and a lost terminal as Ctrl-C, so that every way to stop us cleans up."""
    interruption = Interruption()
    names = heeded(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(name, interruption) for name in names]
    try:
        yield interruption
    finally:
        for name, handler in zip(names, before, strict=True):
            signal.signal(name, handler)
        sys.stdout.flush()


@contextlib.contextmanager
def workplace(
    chosen: Settings, slots: int | None, check: Callable[[Session], object] = lambda session: None
) -> Iterator[tuple[Session, LocalWorkers | None]]:
    """Give a session, and with it workers of our own unless a server is configured, whose workers run the steps.

    `check` may raise before any worker is started.
    """
    with contextlib.ExitStack() as stack:
        session = stack.enter_context(open_session(RETRIES))
        check(session)
        local = None
        if chosen.redis_url is None:
            slots = slots or max(2, available_cores())
            local = stack.enter_context(local_workers(chosen, session.redis_url, slots))
        yield session, local


def workers_option() -> Callable[[Any], Any]:
    return click.option(
        "--workers", type=click.IntRange(min=1), metavar="N", help="Step slots; the number of cores, at least 2."
    )


def warn_of_slots(chosen: Settings, slots: int | None) -> None:
    """Say so when --workers was given in vain."""
    if chosen.redis_url and slots:
        click.echo("--workers has no effect: with ORCHESTRATOR_REDIS_URL that server's workers run the steps", err=True)


def follow_to_the_end(
    session: Session,
    local: LocalWorkers | None,
    interruption: Interruption,
    run_id: str,
    begin: Callable[[], object],
    *,
    after: str = "0",
    as_json: bool,
) -> tuple[RunRecord, int]:
    """Let a run begin, follow it to its end, and give its record and the exit code. `after` is its last event so far.

    Ctrl-C cancels it in the ledger first; then what runs is stopped with grace, and at last our own workers.
    """
    ledger = session.ledger
    try:
        begin()
        record = read_skeleton(ledger, run_id)
        record.apply(_events_until(ledger, run_id, after))
        with progress_for(record, is_quiet=as_json) as progress:
            _watch(session, record, progress, local, after)
        _end_workers(session, local, run_id, interruption)
        code = 0 if record.state is RunState.SUCCEEDED else NOT_SUCCEEDED
    except KeyboardInterrupt:
        _cancel(session, run_id, local, interruption)
        code = INTERRUPTED
    except BrokenPipeError:  # who read our output has left, as `head` does: nobody waits for the run
        _cancel(session, run_id, local, interruption, "nobody reads the output any more")
        raise
    except LocalWorkerError as error:
        click.echo(f"{type(error).__name__}: {error}", err=True)
        ledger.cancel(run_id, "the local worker ended")  # nobody is left who could go on with it
        _end_workers(session, local, run_id, interruption, is_waiting=False)
        _strike(ledger, run_id)
        code = NOT_SUCCEEDED
    record = read_record(ledger, run_id)
    logs = {
        name: ledger.log_lines(run_id, name, step.attempts[-1].attempt)
        for name, step in record.steps.items()
        if step.state is StepState.FAILED and step.attempts
    }
    click.echo(summary_text(record, logs), err=as_json)
    if record.state is RunState.FAILED:
        _tell_people(session, run_id)
    return record, code


def _tell_people(session: Session, run_id: str) -> None:
    """Wait, but not for long, until people have been told that the run failed. Ctrl-C leaves it to others."""
    from orchestrator.coordinator.coordinator import ALERTS_LIMIT_S, Coordinator

    coordinator = Coordinator(session.ledger, session.app, session.settings, is_follower=True)
    if coordinator.leaves_telling():
        return
    limit = time.monotonic() + ALERTS_LIMIT_S
    with contextlib.suppress(KeyboardInterrupt):
        while run_id in session.ledger.active_runs() and (left_s := limit - time.monotonic()) > 0:
            pause_s = coordinator.visit(run_id)
            coordinator.finish(left_s)
            coordinator.visit(run_id)  # strikes it from the active runs when nobody is left to be told
            time.sleep(min(pause_s, left_s))
    if run_id in session.ledger.active_runs():
        click.echo("not everybody could be told yet that it failed: orchestrator serve goes on trying", err=True)


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


def _watch(
    session: Session, record: RunRecord, progress: Progress, local: LocalWorkers | None, after: str = "0"
) -> None:
    """Follow the run to its end, doing a coordinator's work for it meanwhile."""
    from orchestrator.coordinator.coordinator import LEAST_PAUSE_S, Coordinator
    from orchestrator.coordinator.waiting import unserved_steps

    ledger = session.ledger
    coordinator = Coordinator(ledger, session.app, session.settings, is_follower=True)
    began = time.monotonic()
    poll_s = session.settings.poll_interval_s
    next_round, next_sign, next_look = began, began, began + (LOCAL_START_S if local else FIRST_LOOK_S)
    is_ended = False  # a run that is resumed had ended before
    while not is_ended:
        pause_s = min(poll_s, max(LEAST_PAUSE_S, next_round - time.monotonic()))
        events = ledger.wait_for_events(record.run_id, after, pause_s)
        if events:
            after = events[-1].id
            record.apply(events)
            is_ended = record.state.is_ended and any(event.kind in RUN_ENDS for event in events)
            progress.show(events)
            delays_s = [
                (event.detail["due_at"] - event.at_us) / 1e6
                for event in events
                if event.kind is EventKind.STEP_RETRYING
            ]
            next_round = min([next_round, *(time.monotonic() + delay_s for delay_s in delays_s)])
            if not is_ended:
                time.sleep(EVENTS_PAUSE_S)  # read events together: one by one they would cost a core that steps need
        now = time.monotonic()
        if now >= next_round:
            next_round = now + coordinator.visit(record.run_id)
            if local and not local.alive():
                died = local.bury()
                progress.warn(f"local worker {local.name} {died}: it is started again (its log: {local.log_path})")
                coordinator.take_over_from(record.run_id, local.worker_id, died)
                local.start_again()
        if now >= next_sign:
            next_sign = now + SIGN_OF_LIFE_S
            announce_follower(ledger.client, ledger.prefix, coordinator.name, record.run_id)
        if now >= next_look:
            next_look = now + POOLS_LOOK_S
            progress.show_unserved(unserved_steps(ledger, record.steps))
    withdraw_follower(ledger.client, ledger.prefix, coordinator.name, record.run_id)
    coordinator.visit(record.run_id)  # strikes it from the active runs, or begins to tell people that it failed


def _cancel(
    session: Session,
    run_id: str,
    local: LocalWorkers | None,
    interruption: Interruption,
    reason: str = "",
) -> None:
    """Cancel in the ledger first, then stop what we started."""
    interruption.count = max(1, interruption.count)  # from here on Ctrl-C only hurries us
    session.ledger.client.connection_pool.disconnect()  # the interrupted call may have left half an answer there
    if not session.ledger.exists(run_id):
        raise KeyboardInterrupt
    session.ledger.cancel(run_id, reason or interruption.reason)
    _end_workers(session, local, run_id, interruption)
    _strike(session.ledger, run_id)


def _strike(ledger: Ledger, run_id: str) -> None:
    """Strike a run from the coordinators' list, unless somebody has yet to be told of it or a step is being stopped."""
    if ledger.advance_due(run_id).is_over:
        ledger.unwatch_run(run_id)


def _end_workers(
    session: Session, local: LocalWorkers | None, run_id: str, interruption: Interruption, *, is_waiting: bool = True
) -> None:
    """Let workers stop what was cancelled, with grace; then end ours, and what still runs on them."""
    from orchestrator.coordinator.stopping import wait_until_stopped

    ledger = session.ledger
    limit_s = session.settings.timeout_grace_s + STOPPING_SLACK_S if is_waiting else 0.0
    if is_waiting and not interruption.is_repeated() and (count := len(ledger.stopping(run_id))):
        many = "1 step is" if count == 1 else f"{count:,} steps are"
        hint = "; Ctrl-C again ends them at once" if local else ""
        click.echo(f"{many} being stopped{hint}", err=True)
    left = wait_until_stopped(ledger, session.settings, run_id, limit_s, is_enough=interruption.is_repeated)
    if local is None:
        return
    local.kill()  # Celery's own shutdown would take three seconds, and nothing runs any more that should
    now_us = ledger.now_us()
    for it in left:
        detail = {
            "reason": "cancelled",
            "how": "killed with its worker",
            "after_s": round((now_us - it.since_us) / 1e6, 3),
            "worker": it.worker,
        }
        ledger.report_stopped(Held(run_id, it.step, it.attempt, it.worker), detail)
