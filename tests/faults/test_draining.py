"""A worker is told to end: its steps end or are handed over, none is lost, and nothing counts as a
failure."""

from __future__ import annotations

import os
import signal

import pytest

from orchestrator.artifacts.layout import checkpoint_folder
from orchestrator.record.run import RunRecord
from tests.support.fixtures import WaitUntil
from tests.support.site.run import Run
from tests.support.site.site import NewSite, Site
from tests.support.site.workers import Worker

HOLDING = """
    @step
    def hold():
        note(f"began-{context.attempt}")
        if context.attempt == 1:
            subprocess.Popen(["sleep", "600"])
            wait_for("go")
        return context.worker

    @step
    def behind():
        return context.worker

    @step
    def below(worker):
        return worker

    @pipeline
    def holding():
        below(hold())
        behind.options(priority=9)()
"""


def outcomes(record: RunRecord, step: str) -> list[str | None]:
    return [attempt.outcome for attempt in record.steps[step].attempts]


@pytest.fixture
def leaving(site: Site) -> tuple[Worker, Run]:
    """Return a worker with one child, a run of which it runs `hold` while `behind` waits, and the
    run's site."""
    site.coordinate()
    worker = site.add_worker(slots=1)
    run = site.submit(HOLDING)
    run.wait_for_note("began-1")
    return worker, run


@pytest.mark.parametrize("to_whom", ["the worker", "its whole process group"])
def test_a_worker_that_is_told_to_end_lets_its_step_end_and_takes_no_more(
    site: Site, leaving: tuple[Worker, Run], wait_until: WaitUntil, to_whom: str
) -> None:
    worker, run = leaving
    if to_whom == "the worker":
        worker.tell(signal.SIGTERM)
    else:
        os.killpg(worker.process.pid, signal.SIGTERM)
    run.wait(lambda _: "waiting for 1 running steps; a second signal hands them over" in worker.log)
    wait_until(lambda: site.card(worker).queues == ())  # it is there, and takes no more

    run.note("go")
    assert worker.process.wait(20) == 0
    assert site.card(worker) is None
    assert run.state("hold") == "succeeded"
    assert (run.state("below"), run.state("behind")) == ("queued", "queued")
    assert len(site.messages()) == 2
    wait_until(lambda: not worker.processes())
    other = site.add_worker()

    record = run.ended()
    assert record.state == "succeeded"
    assert all(len(step.attempts) == 1 for step in record.steps.values())
    assert site.value(record, "behind").startswith(other.name)
    assert not run.events("attempt.handed_over")


def test_a_worker_that_waits_for_its_steps_keeps_no_message_that_is_sent_meanwhile(
    server_site: Site,
) -> None:
    site = server_site
    (site.folder / "patient_app.py").write_text("""
from orchestrator.worker.app import app

# The server may answer a request for a message for so many seconds, in place of one.
app.conf.broker_transport_options = {**app.conf.broker_transport_options, "polling_interval": 3}
""")
    site.coordinate()
    worker = site.add_worker(slots=2, app="patient_app")
    run = site.submit(HOLDING)
    run.wait_for("behind", "succeeded")
    run.wait_for_note("began-1")
    run.wait(
        lambda _: any(
            it["cmd"] == "brpop" and "b" in it["flags"] for it in site.client.client_list()
        )
    )
    worker.tell(signal.SIGTERM)
    run.wait(lambda _: "a second signal hands them over" in worker.log)
    # Its last request may still lie with the server, which answers it with the next message.
    other = site.submit("""
        @step
        def work(number):
            return context.worker

        @pipeline
        def wide():
            for number in range(3):
                work(number)
    """)
    second = site.add_worker()

    other.wait()
    assert worker.is_alive
    run.note("go")
    assert run.ended().state == "succeeded"
    record = other.check()
    assert all(step.attempts[0].worker.startswith(second.name) for step in record.steps.values())


def test_a_step_that_a_child_has_just_begun_when_its_worker_is_told_to_end_may_end_too(
    site: Site,
) -> None:
    (site.folder / "sudden_app.py").write_text("""
import os, signal, time
from orchestrator.worker.app import app
from orchestrator.worker.celery_inside.requests import StepRequest

accept = StepRequest.on_accepted

def end_and_accept(self, pid, at):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.2)  # as if this process were slow to hear of its child
    accept(self, pid, at)

StepRequest.on_accepted = end_and_accept
""")
    site.coordinate()
    worker = site.add_worker(slots=1, app="sudden_app")
    run = site.submit(HOLDING)
    run.wait_for_note("began-1")
    lease_until = run.ledger.due_at(run.run_id, "hold") + 1_500_000
    run.wait(lambda _: (run.ledger.due_at(run.run_id, "hold") or 0) > lease_until)
    run.note("go")

    assert worker.process.wait(20) == 0
    assert run.state("hold") == "succeeded"
    assert not run.events("attempt.handed_over")


@pytest.mark.parametrize("how", ["SIGTERM twice", "SIGINT twice", "SIGQUIT"])
def test_a_worker_that_is_hurried_hands_its_step_over_to_another_one(
    site: Site, leaving: tuple[Worker, Run], wait_until: WaitUntil, how: str
) -> None:
    worker, run = leaving
    other = site.add_worker()
    signum = signal.Signals[how.split()[0]]
    worker.tell(signum)
    if how.endswith("twice"):
        run.wait(lambda _: "a second signal hands them over" in worker.log)
        worker.tell(signum)

    record = run.ended()

    worker.process.wait(20)
    wait_until(lambda: not worker.processes())
    assert record.state == "succeeded"
    assert outcomes(record, "hold") == ["handed_over", "succeeded"]
    assert run.events("attempt.handed_over")[0].fields["reason"] == "its worker ended"
    assert site.value(record, "below").startswith(other.name)
    assert run.ledger.uncounted(run.run_id, "hold") == 1


def test_a_worker_whose_grace_is_over_hands_its_step_over(site: Site) -> None:
    site.coordinate()
    worker = site.add_worker(slots=1, drain_grace_s=0.5)
    run = site.submit("""
        @step
        def hold():
            note(f"began-{context.attempt}")
            if context.attempt == 1:
                sum(range(10**12))  # it cannot even be asked
            return context.attempt

        @pipeline
        def holding():
            hold()
    """)
    run.wait_for_note("began-1")
    site.add_worker()

    worker.tell(signal.SIGTERM)

    record = run.ended()
    worker.process.wait(20)
    assert outcomes(record, "hold") == ["handed_over", "succeeded"]


def test_handing_over_uses_up_neither_retries_nor_lost_attempts(site: Site) -> None:
    site.coordinate()
    run = site.submit("""
        @step(lost_attempts=1, retries=1, retry_delay=0)
        def hold():
            note(f"began-{context.attempt}")
            if context.attempt < 3:
                wait_for("never")
            if context.attempt == 3:
                raise ValueError("the only failure")
            return context.attempt

        @pipeline
        def holding():
            hold()
    """)
    for attempt in (1, 2):
        worker = site.add_worker(slots=1)
        run.wait_for_note(f"began-{attempt}")
        worker.tell(signal.SIGQUIT)
        worker.process.wait(20)
    site.add_worker(slots=1)

    record = run.ended()
    assert record.state == "succeeded"
    assert outcomes(record, "hold") == ["handed_over", "handed_over", "failed", "succeeded"]


def test_a_step_that_saves_a_checkpoint_when_it_should_stop_goes_on_from_there_on_another_worker(
    site: Site,
) -> None:
    site.coordinate()
    worker = site.add_worker(slots=1)
    run = site.submit("""
        @step
        def train():
            checkpoint = context.checkpoint_dir / "epoch"
            epoch = int(checkpoint.read_text()) if checkpoint.exists() else 0
            trained = []
            while epoch < 10:
                if context.should_stop:
                    checkpoint.write_text(str(epoch))
                    context.hand_over()
                trained.append(epoch)
                epoch += 1
                if epoch == 5 and context.attempt == 1:
                    note("half")
                    while not context.should_stop:
                        time.sleep(0.01)
            return trained, context.worker
    """)
    run.wait_for_note("half")
    other = site.add_worker()

    worker.tell(signal.SIGTERM)

    record = run.ended()
    assert worker.process.wait(20) == 0
    assert outcomes(record, "train") == ["handed_over", "succeeded"]
    assert run.events("attempt.handed_over")[0].fields["reason"] == "the step handed over"
    trained, who = site.value(record, "train")
    assert trained == [5, 6, 7, 8, 9]
    assert who.startswith(other.name)
    assert not checkpoint_folder(site.settings.artifact_root, run.run_id, "train").exists()


def test_a_pool_that_cannot_end_a_step_hands_it_over_and_ends_with_it(
    site: Site, wait_until: WaitUntil
) -> None:
    site.coordinate()
    worker = site.add_worker(pool="threads")
    run = site.submit("""
        @step
        def hold():
            note(f"began-{context.attempt}")
            if context.attempt == 1:
                subprocess.run(["sleep", "600"])
            return context.worker

        @pipeline
        def holding():
            hold()
    """)
    run.wait_for_note("began-1")
    other = site.add_worker()

    worker.tell(signal.SIGQUIT)

    record = run.ended()
    assert worker.process.wait(20) == 0
    wait_until(lambda: not worker.processes())
    assert outcomes(record, "hold") == ["handed_over", "succeeded"]
    assert site.value(record, "hold").startswith(other.name)


def test_a_step_is_handed_over_when_all_it_had_started_is_gone_however_long_that_takes(
    new_site: NewSite,
) -> None:
    site = new_site(timeout_grace_s=2)  # longer than the lease
    site.coordinate()
    worker = site.add_worker(slots=1)
    run = site.submit("""
        @step
        def hold():
            if context.attempt == 2:
                stat = pathlib.Path("/proc", (FOLDER / "deaf").read_text(), "stat")
                return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"
            deaf = subprocess.Popen(["sh", "-c", f"trap '' TERM; echo > {FOLDER}/began; sleep 600 & wait; sleep 600"])
            note("deaf", deaf.pid)
            wait_for("never")

        @pipeline
        def holding():
            hold()
    """)
    run.wait_for_note("deaf")
    run.wait_for_note("began")
    site.add_worker()

    worker.tell(signal.SIGQUIT)

    record = run.ended()
    assert outcomes(record, "hold") == ["handed_over", "succeeded"]
    assert site.value(record, "hold") is False
    first = record.steps["hold"].attempts[0]
    assert (first.ended_at_us - first.started_at_us) / 1e6 > 2


def test_a_worker_that_is_shut_down_from_afar_drains_too(new_site: NewSite) -> None:
    """As Flower does it: no signal comes."""
    site = new_site(drain_grace_s=1.0)
    site.coordinate()
    worker = site.add_worker(slots=1)
    run = site.submit(HOLDING)
    run.wait_for_note("began-1")

    site.app.control.broadcast("shutdown", destination=[site.card(worker).worker])
    run.wait(lambda _: "waiting for 1 running steps" in worker.log)
    other = site.add_worker()

    record = run.ended()
    assert outcomes(record, "hold") == ["handed_over", "succeeded"]
    assert record.steps["hold"].attempts[1].worker.startswith(other.name)
    assert worker.process.wait(20) == 0
