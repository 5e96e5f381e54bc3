"""Coordinators die, or are many; and the clocks that they keep."""

from __future__ import annotations

import pytest

from orchestrator.record.run import RunRecord
from tests.support.site.run import Run
from tests.support.site.server import Server
from tests.support.site.site import Site

RETRYING = """
    @step(retries=1, retry_delay=1.5, retry_jitter=0)
    def again():
        if context.attempt == 1:
            raise ValueError("as planned")
        return context.attempt

    @step
    def below(value):
        return value

    @pipeline
    def retrying():
        below(again())
"""


def assert_retried(site: Site, run: Run, record: RunRecord) -> None:
    assert record.state == "succeeded"
    assert [attempt.outcome for attempt in record.steps["again"].attempts] == [
        "failed",
        "succeeded",
    ]
    assert site.value(record, "below") == 2
    due_at = run.events("step.retrying")[0].fields["due_at"]
    assert record.steps["again"].attempts[1].queued_at_us >= due_at


def test_a_killed_coordinator_stops_nothing_that_runs_and_the_next_one_goes_on(site: Site) -> None:
    site.add_worker()
    coordinator = site.start_coordinator()
    run, other = site.submit(RETRYING), site.submit(RETRYING.replace("retries=1", "retries=0"))
    run.wait_for("again", "retrying")
    coordinator.kill()
    coordinator.wait()

    assert other.ended().state == "failed"
    due_at = run.events("step.retrying")[0].fields["due_at"]
    run.wait(lambda _: run.ledger.now_us() > due_at + 300_000)
    assert run.state("again") == "retrying"
    site.start_coordinator()

    assert_retried(site, run, run.ended())


def test_many_coordinators_at_once_mend_and_log_each_loss_once(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    doomed = site.add_worker(slots=4)
    run = site.submit("""
        @step
        def work(number):
            if is_first(f"began-{number}"):
                time.sleep(600)
            return number

        @pipeline
        def wide():
            for number in range(10):
                work.options(name=f"work-{number}")(number)
    """)
    run.wait(lambda record: sum(step.state == "running" for step in record.steps.values()) == 4)
    running = [name for name in run.pipeline.steps if run.state(name) == "running"]
    queued = [name for name in run.pipeline.steps if run.state(name) == "queued"]
    for name in running:
        run.wait_for_note(name.replace("work", "began"))
    for name in queued:
        run.note(name.replace("work", "began"))
    assert site.drop_messages() == 6
    doomed.kill()

    with site.coordinator(4):
        run.wait(lambda record: record.repairs == 10)
    assert len(site.messages()) == 10
    site.coordinate()
    site.add_worker(slots=4)

    record = run.ended(
        [("attempt.lost", name, "ran out") for name in running]
        + [("message.lost", name, "is empty|holds younger messages only") for name in queued]
    )
    assert record.state == "succeeded"
    assert len([it for it in caplog.records if it.name.startswith("orchestrator.repair.")]) == 10
    assert {name: len(step.attempts) for name, step in record.steps.items()} == (
        dict.fromkeys(running, 2) | dict.fromkeys(queued, 1)
    )


def test_a_retry_that_is_due_after_every_process_was_restarted_is_sent(
    server: Server, server_site: Site
) -> None:
    site = server_site
    worker = site.add_worker()
    coordinator = site.start_coordinator()
    run = site.submit(RETRYING)
    run.wait_for("again", "retrying")

    coordinator.kill()
    worker.kill()
    server.kill()
    coordinator.wait()
    server.restart()
    site.start_coordinator()
    site.add_worker()

    assert_retried(site, run, run.ended())


def test_a_step_that_waits_too_long_for_a_worker_fails(site: Site) -> None:
    site.coordinate()
    run = site.submit("""
        @step(queue_timeout=1)
        def patient():
            return 1

        @step
        def below(value):
            return value
    """)

    record = run.ended()

    assert record.state == "failed"
    assert {name: step.state.value for name, step in record.steps.items()} == {
        "patient": "failed",
        "below": "upstream_failed",
    }
    (failed,) = run.events("step.failed")
    assert failed.fields["error"]["type"] == "QueueTimeout"
    assert (
        failed.fields["error"]["message"]
        == f"it waited 1 s for a worker of queue {site.queue}, which is as long as it may"
    )
    # The message is still there: a worker that comes now drops it.
    site.add_worker()
    run.wait(lambda _: not site.messages())
    assert run.check().state == "failed"


def test_a_run_that_misses_its_deadline_fails_and_what_runs_is_stopped(site: Site) -> None:
    site.at_work(slots=1)
    run = site.submit("""
        @step
        def slow():
            subprocess.run(["sleep", "600"])

        @step
        def behind():
            pass

        @pipeline(deadline=1.5)
        def late():
            slow()
            behind()
    """)

    record = run.ended()

    assert record.state == "failed"
    assert run.events("run.failed")[0].fields == {"reason": "missed its deadline of 1.5 s"}
    assert {name: step.state.value for name, step in record.steps.items()} == {
        "slow": "cancelled",
        "behind": "cancelled",
    }
    (stopped,) = run.events("attempt.stopped")
    assert (stopped.step, stopped.fields["reason"]) == ("slow", "cancelled")
