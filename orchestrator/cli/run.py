"""`orchestrator run`: one run from start to end, with live progress, in the foreground."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType

import click

from orchestrator.cli.loading import load_plan
from orchestrator.cli.progress import Progress, progress_for
from orchestrator.cli.record_json import record_json
from orchestrator.cli.session import Session, open_session
from orchestrator.cli.summary import summary_text
from orchestrator.ledger.record import RunRecord, read_record, read_skeleton
from orchestrator.ledger.states import RunState, StepState
from orchestrator.local.workers import LocalWorkerError, LocalWorkers, local_workers
from orchestrator.plan.plan import Plan
from orchestrator.settings import available_cores, settings

NOT_SUCCEEDED, INTERRUPTED = 1, 130
POOLS_LOOK_S = 2.0
RETRYING = "step.retrying"
EVENTS_PAUSE_S = 0.05
RETRIES = 30  # of a call while the server is away, up to 2 s apart
FIRST_LOOK_S = 0.5
LOCAL_START_S = 10.0  # a worker of our own that is just starting needs no warning


@click.command()
@click.argument("target", metavar="FILE[:NAME]")
@click.option("-p", "--param", "params", multiple=True, metavar="KEY=VALUE", help="A param of the run.")
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Step slots; the number of cores, at least 2.")
@click.option("--json", "as_json", is_flag=True, help="Print the run's record as JSON at its end.")
@click.pass_context
def run(ctx: click.Context, target: str, params: tuple[str, ...], workers: int | None, as_json: bool) -> None:
    """Run a pipeline to its end.

    Without ORCHESTRATOR_REDIS_URL a server and workers are started for the run and stopped after it; with it,
    that server and its workers are used. Exit: 0 succeeded, 1 failed, 2 invalid, 130 cancelled by Ctrl-C.
    """
    chosen = settings()
    if chosen.redis_url and workers:
        click.echo("--workers has no effect: with ORCHESTRATOR_REDIS_URL that server's workers run the steps", err=True)
    with _interruptible():
        try:
            with contextlib.ExitStack() as stack:
                if chosen.redis_url:
                    plan, _ = load_plan(target, params, chosen)
                    session, local = stack.enter_context(open_session(RETRIES)), None
                else:
                    # The worker starts up while the pipeline is loaded; an invalid one ends it before anything is sent.
                    session = stack.enter_context(open_session(RETRIES))
                    slots = workers or max(2, available_cores())
                    local = stack.enter_context(local_workers(chosen, session.redis_url, slots))
                    plan, _ = load_plan(target, params, chosen)
                record, code = _run_to_end(session, plan, local, as_json)
        except KeyboardInterrupt:
            click.echo("cancelled before the run began", err=True)
            ctx.exit(INTERRUPTED)
    if as_json:
        click.echo(json.dumps(record_json(record)))
    ctx.exit(code)


def _run_to_end(session: Session, plan: Plan, local: LocalWorkers | None, as_json: bool) -> tuple[RunRecord, int]:
    from orchestrator.coordinator.submission import new_run_id, submit

    ledger = session.ledger
    run_id = new_run_id()
    try:
        submit(plan, ledger, session.app, local.settings if local else session.settings, run_id)
        record = read_skeleton(ledger, run_id)
        with progress_for(record, is_quiet=as_json) as progress:
            _watch(session, record, progress, local)
        if local:
            local.kill()  # nothing runs any more; Celery's own shutdown would take three seconds
        code = 0 if record.state is RunState.SUCCEEDED else NOT_SUCCEEDED
    except KeyboardInterrupt:
        _cancel(session, run_id, local)
        code = INTERRUPTED
    except BrokenPipeError:  # who read our output has left, as `head` does: nobody waits for the run
        _cancel(session, run_id, local, "nobody reads the output any more")
        raise
    except LocalWorkerError as error:
        click.echo(f"{type(error).__name__}: {error}", err=True)
        ledger.cancel(run_id, "the local worker ended")  # nobody is left who could go on with it
        ledger.forget_active(run_id)
        code = NOT_SUCCEEDED
    record = read_record(ledger, run_id)
    logs = {
        name: ledger.log_lines(run_id, name, step.attempts[-1].attempt)
        for name, step in record.steps.items()
        if step.state is StepState.FAILED and step.attempts
    }
    click.echo(summary_text(record, logs), err=as_json)
    return record, code


def _watch(session: Session, record: RunRecord, progress: Progress, local: LocalWorkers | None) -> None:
    """Follow the run to its end, doing a coordinator's work for it meanwhile."""
    from orchestrator.coordinator.service import LEAST_PAUSE_S, Coordinator
    from orchestrator.coordinator.waiting import unserved_steps

    ledger = session.ledger
    coordinator = Coordinator(ledger, session.app, session.settings.poll_interval_s)
    after, began = "0", time.monotonic()
    poll_s = session.settings.poll_interval_s
    next_round, next_look = began, began + (LOCAL_START_S if local else FIRST_LOOK_S)
    while not record.state.is_ended:
        pause_s = min(poll_s, max(LEAST_PAUSE_S, next_round - time.monotonic()))
        events = ledger.wait_for_events(record.run_id, after, pause_s)
        if events:
            after = events[-1].id
            record.tell(events)
            progress.show(events)
            delays_s = [(event.detail["due_at"] - event.at_us) / 1e6 for event in events if event.event == RETRYING]
            next_round = min([next_round, *(time.monotonic() + delay_s for delay_s in delays_s)])
            if not record.state.is_ended:
                time.sleep(EVENTS_PAUSE_S)  # read events together: one by one they would cost a core that steps need
        now = time.monotonic()
        if now >= next_round:
            next_round = now + coordinator.tend(record.run_id)
            if local:
                local.check()
        if now >= next_look:
            next_look = now + POOLS_LOOK_S
            progress.show_unserved(unserved_steps(ledger, record.steps))
    ledger.forget_active(record.run_id)


def _cancel(session: Session, run_id: str, local: LocalWorkers | None, reason: str = "interrupted by Ctrl-C") -> None:
    """Cancel in the ledger first, then stop what we started."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    session.ledger.client.connection_pool.disconnect()  # the interrupted call may have left half an answer there
    if session.ledger.client.exists(session.ledger.key(run_id, "run")):
        session.ledger.cancel(run_id, reason)
        session.ledger.forget_active(run_id)
        if local:
            local.kill()
    else:
        raise KeyboardInterrupt


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Take SIGTERM and a lost terminal as Ctrl-C, so that every way to stop us cleans up."""

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    names = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(name, interrupt) for name in names]
    try:
        yield
    finally:
        for name, handler in zip(names, before, strict=True):
            signal.signal(name, handler)
        sys.stdout.flush()
