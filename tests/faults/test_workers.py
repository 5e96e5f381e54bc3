"""A whole worker dies, or is silent: what it ran goes on elsewhere, and it can spoil nothing any
more."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from orchestrator.attempt_id import AttemptId
from tests.support.site.site import Site

GONE = r"^the lease of worker w\d\.\S+ ran out \d\.\d s ago$"

RUNNING_LONG = """
    def first_time(name):
        if is_first(name):
            note(f"{name}-began", os.getpid())
            return True

    @step
    def plain():
        if first_time("plain"):
            time.sleep(600)
        return context.worker

    @step
    def commands():
        if first_time("commands"):
            command = ["sh", "-c", "trap '' TERM; sleep 600 & sh -c 'sleep 600 & sleep 600'"]
            subprocess.Popen(["setsid", *command])
            subprocess.run(command)
        return context.worker

    @step
    def daemon():
        if first_time("daemon"):
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    subprocess.run(["sleep", "600"])
                os._exit(0)
            os.wait()
            time.sleep(600)
        return context.worker

    @step
    def busy():
        if first_time("busy"):
            sum(range(10**12))
        return context.worker

    @step
    def join(*workers):
        return len(set(workers))

    @pipeline
    def long():
        join(plain(), commands(), daemon(), busy())
"""


def test_what_a_killed_worker_had_started_is_gone_in_seconds_and_its_steps_run_elsewhere(
    site: Site,
) -> None:
    doomed = site.at_work(slots=4)
    run = site.submit(RUNNING_LONG)
    for name in ("plain", "commands", "daemon", "busy"):
        run.wait_for_note(f"{name}-began")
    run.wait(lambda _: doomed.commands("sleep") == 7)
    other = site.add_worker(slots=4)

    doomed.kill()
    run.wait(lambda _: not doomed.processes())

    record = run.ended(
        [("attempt.lost", step, GONE) for step in ("plain", "commands", "daemon", "busy")]
    )
    assert record.state == "succeeded"
    assert site.value(record, "plain").startswith(other.name)
    assert site.value(record, "join") == 1
    assert {event.fields["error"]["type"] for event in run.events("attempt.lost")} == {"HostLost"}


def test_what_a_dead_child_left_to_a_worker_that_hangs_is_gone_when_the_worker_is_killed(
    site: Site,
) -> None:
    doomed = site.add_worker(slots=1)
    run = site.submit("""
        @step
        def leave():
            daemon = subprocess.Popen(["sh", "-c", "sleep 600 & sleep 600"], start_new_session=True)
            note("began", daemon.pid)
            time.sleep(600)

        @pipeline
        def leaving():
            leave()
    """)
    daemon = psutil.Process(int(run.wait_for_note("began")))
    run.wait(lambda _: site.commands("sleep") == 2)
    (child,) = doomed.children()
    (guardian,) = (it for it in psutil.Process(doomed.process.pid).children() if is_guardian(it))

    doomed.tell(signal.SIGSTOP)
    child.kill()
    run.wait(lambda _: daemon.ppid() == doomed.process.pid and daemon.pid in watched_by(guardian))
    doomed.kill()

    run.wait(lambda _: not doomed.processes(), 3)
    run.ledger.cancel(run.run_id, "its test is over")


def is_guardian(process: psutil.Process) -> bool:
    return any("guardian.py" in word for word in process.cmdline())


def watched_by(process: psutil.Process) -> set[int]:
    """Return the ids of the processes whose ends a process waits for."""
    found = set()
    for path in Path(f"/proc/{process.pid}/fdinfo").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found |= {
                int(line.split()[1])
                for line in path.read_text().splitlines()
                if line.startswith("Pid:")
            }
    return found


def test_a_worker_that_loses_its_parent_leaves_nothing_of_a_step_that_starts_processes_all_the_time(
    site: Site,
) -> None:
    (site.folder / "orphaned_app.py").write_text("""
import os, pathlib
from orchestrator.worker.app import app

FOLDER = pathlib.Path(__file__).parent
getppid, main_pid = os.getppid, os.getpid()
os.getppid = lambda: 1 if os.getpid() == main_pid and (FOLDER / "orphaned").exists() else getppid()
""")
    orphan = site.add_worker(app="orphaned_app", slots=1, parent_pid=os.getpid())
    run = site.submit("""
        leaving = PipelineBuilder("leaving")
        leaving.add("leave", run="while :; do sleep 600 & sleep 0.005; done")
    """)
    run.wait(lambda _: site.commands("sleep") > 20)

    (site.folder / "orphaned").touch()

    orphan.process.wait(10)
    run.wait(lambda _: not orphan.processes(), 3)
    run.ledger.cancel(run.run_id, "its test is over")


def test_a_frozen_worker_that_wakes_after_its_lease_can_commit_nothing(site: Site) -> None:
    frozen = site.at_work(slots=1)
    run = site.submit("""
        @step
        def end():
            print(f"attempt {context.attempt} begins")
            if context.attempt == 1:
                wait_for("go")
                print("attempt 1 ends")
            return context.attempt

        @step
        def below(value):
            return value

        @pipeline
        def freezing():
            below(end())
    """)
    run.wait(lambda _: run.ledger.log_lines(AttemptId(run.run_id, "end", 1)))
    frozen.halt()
    site.add_worker(slots=1)
    assert run.wait().state == "succeeded"

    # The child wakes before the main process, which would stop it: it ends its work as if nothing
    # had happened.
    run.note("go")
    frozen.children()[0].resume()
    run.wait(lambda _: run.events("commit.refused"))
    frozen.go_on()

    record = run.ended([("attempt.lost", "end", GONE)])
    assert [attempt.outcome for attempt in record.steps["end"].attempts] == ["lost", "succeeded"]
    assert site.value(record, "below") == 2
    (refused,) = run.events("commit.refused")
    assert (refused.step, refused.attempt) == ("end", 1)
    assert (refused.fields["outcome"], refused.fields["state"]) == ("succeeded", "succeeded")
    (log_refused,) = run.events("log.refused")
    assert (log_refused.step, log_refused.attempt) == ("end", 1)
    assert run.ledger.log_lines(AttemptId(run.run_id, "end", 1)) == ["attempt 1 begins"]


def test_a_frozen_worker_that_wakes_after_its_lease_stops_what_it_runs(site: Site) -> None:
    frozen = site.at_work(slots=1)
    run = site.submit("""
        @step
        def end():
            if context.attempt == 1:
                subprocess.Popen(["sh", "-c", "trap '' TERM; sleep 600 & wait"])
                note("began")
                while True:
                    print("still here")
                    time.sleep(0.1)
            return context.attempt

        @pipeline
        def freezing():
            end()
    """)
    run.wait_for_note("began")
    run.wait(lambda _: run.ledger.log_lines(AttemptId(run.run_id, "end", 1)))
    frozen.halt()
    site.add_worker(slots=1)
    assert run.wait().state == "succeeded"

    frozen.go_on()
    run.wait(lambda _: run.events("attempt.stopped"), 10)

    record = run.ended([("attempt.lost", "end", GONE)])
    assert site.value(record, "end") == 2
    (stopped,) = run.events("attempt.stopped")
    assert (stopped.step, stopped.attempt, stopped.fields["reason"]) == ("end", 1, "fenced")
    assert stopped.fields["how"].startswith("it ended when asked")
    assert stopped.fields["after_s"] < 2 + site.settings.timeout_grace_s
    assert len(run.events("log.refused")) == 1
    assert not run.events("commit.refused")
    assert run.ledger.log_lines(AttemptId(run.run_id, "end", 2)) == []


PLAIN = """
    @step
    def end():
        return context.worker

    @pipeline
    def plain():
        end()
"""

HOLDING_APP = """
import os, pathlib, time
from celery.signals import task_received
import orchestrator.worker.tasks
from orchestrator.worker.app import app

FOLDER = pathlib.Path(__file__).parent
WHERE = "{where}"
run_attempt = orchestrator.worker.tasks.run_attempt

def hold(where):
    if where == WHERE and not (FOLDER / "held").exists():
        (FOLDER / "held").touch()
        time.sleep(600)

@task_received.connect
def received(**_):
    hold("main process")  # the message is taken, and no child has it yet

def run_attempt_later(*arguments):
    hold("child")  # a child has it, and has not claimed the step yet
    return run_attempt(*arguments)

orchestrator.worker.tasks.run_attempt = run_attempt_later
"""


@pytest.mark.parametrize("where", ["main process", "child"])
def test_a_message_that_dies_with_its_worker_before_the_claim_is_sent_again(
    site: Site, where: str
) -> None:
    (site.folder / "holding_app.py").write_text(HOLDING_APP.format(where=where))
    holding = site.add_worker(app="holding_app", slots=1)
    run = site.submit(PLAIN)
    run.wait(lambda _: (site.folder / "held").exists())
    holding.halt()
    other = site.at_work(slots=1)
    holding.kill()

    record = run.ended(
        [
            (
                "message.lost",
                "end",
                rf"^queue {site.queue} is empty, and no worker has begun for 1\.\d s$",
            )
        ]
    )

    assert record.state == "succeeded"
    assert len(record.steps["end"].attempts) == 1
    assert site.value(record, "end").startswith(other.name)


def test_a_child_that_wakes_with_an_old_message_gets_no_claim(site: Site) -> None:
    (site.folder / "waking_app.py").write_text("""
import os, pathlib, signal
import orchestrator.worker.tasks
from orchestrator.worker.app import app

FOLDER = pathlib.Path(__file__).parent
run_attempt = orchestrator.worker.tasks.run_attempt

def wake_late(*arguments):
    os.kill(os.getpid(), signal.SIGSTOP)
    end = run_attempt(*arguments)
    (FOLDER / "answer").write_text(end.note)
    return end

orchestrator.worker.tasks.run_attempt = wake_late
""")
    late = site.at_work(app="waking_app", slots=1)
    run = site.submit(PLAIN)
    (child,) = late.children()
    run.wait(lambda _: child.status() == "stopped")
    other = site.add_worker(slots=1)
    assert run.wait().state == "succeeded"

    child.resume()
    run.wait(lambda _: (site.folder / "answer").exists())

    assert (site.folder / "answer").read_text() == "dropped: the step is succeeded at attempt 1"
    record = run.ended([("message.lost", "end", "is empty")])
    assert len(record.steps["end"].attempts) == 1
    assert site.value(record, "end").startswith(other.name)


DISPATCHING_APP = """
import os, pathlib, signal, sys
import orchestrator.messages.dispatch
from orchestrator.worker.app import app

FOLDER = pathlib.Path(__file__).parent
Dispatcher = orchestrator.messages.dispatch.Dispatcher
send = Dispatcher.send

def die_before_it_sends(*arguments):
    if not (FOLDER / "died").exists():
        (FOLDER / "died").touch()
        os.kill({pid}, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    send(*arguments)

Dispatcher.send = die_before_it_sends
"""


@pytest.mark.parametrize("who", ["child", "worker"])
def test_what_a_commit_made_ready_is_sent_though_its_process_dies_before_it_sends_it(
    site: Site, who: str
) -> None:
    pid = "os.getpid()" if who == "child" else "os.getppid()"
    (site.folder / "dispatching_app.py").write_text(DISPATCHING_APP.format(pid=pid))
    doomed = site.at_work(app="dispatching_app", slots=1)
    run = site.submit("""
        @step
        def begin():
            return 1

        @step
        def middle(value):
            return value + 1

        @step
        def end(value):
            return value + 1

        @pipeline
        def branching():
            value = begin()
            end(middle(value))
            middle.options(name="other")(value)
    """)
    run.wait(lambda record: record.steps["begin"].state == "succeeded")
    if who == "worker":
        doomed.process.wait()
        site.add_worker(slots=1)

    record = run.ended([("message.lost", step, "is empty") for step in ("middle", "other")])

    assert record.state == "succeeded"
    assert all(len(step.attempts) == 1 for step in record.steps.values())
    assert site.value(record, "end") == 3


def test_a_step_that_kills_every_worker_fails_after_its_budget_and_another_run_is_unharmed(
    site: Site,
) -> None:
    site.add_workers(2, slots=1)
    site.coordinate()
    poison = site.submit("""
        @step(retries=5, retry_delay=0)
        def kill():
            note(f"attempt-{context.attempt}")
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(600)

        @pipeline
        def poison():
            kill()
    """)
    other = site.submit("""
        @step
        def work(number):
            time.sleep(0.1)
            return number

        @step
        def total(*numbers):
            return sum(numbers)

        @pipeline
        def other():
            total(*[work(number) for number in range(20)])
    """)

    for _ in range(3):
        site.replace_a_dead_worker()

    record = poison.ended([("attempt.lost", "kill", GONE)] * 2)
    assert record.state == "failed"
    assert [attempt.outcome for attempt in record.steps["kill"].attempts] == ["lost"] * 3
    error = record.steps["kill"].attempts[-1].error
    assert error.type == "HostLost"
    assert error.message.endswith(
        "is gone: host lost, no sign of life for 1.5 s (lost attempt 3 of 3: it is not tried again)"
    )
    assert (
        site.value(
            other.ended(lambda repairs: all(repair.kind == "message.lost" for repair in repairs)),
            "total",
        )
        == 190
    )
