"""What goes wrong in a worker's own code, or while a step is being stopped, harms no other step and
no other run."""

from __future__ import annotations

import signal
import threading
import time

import psutil
import pytest

from orchestrator.attempt_id import AttemptId
from tests.support.fixtures import WaitUntil
from tests.support.site.server import Server
from tests.support.site.site import NewSite, Site

# A library that can be set up once in a process only, as numpy; the first time that takes until its
# step is to stop.
LIBRARY = {
    "__init__.py": (
        """
from once import registry
if registry.names:
    raise ImportError("cannot load module more than once per process")
registry.names.append("once")
from once import slow
"""
    ),
    "registry.py": "names = []",
    "slow.py": (
        """
import pathlib, time
from orchestrator import context

began = pathlib.Path(__file__).with_name("began")
if not began.exists():
    began.touch()
    while not context.should_stop:
        time.sleep(0.01)
"""
    ),
}


def test_a_stop_that_lands_in_an_import_leaves_the_process_whole_for_the_next_run(
    new_site: NewSite, wait_until: WaitUntil
) -> None:
    site = new_site(timeout_grace_s=10.0)
    library = site.folder / "once"
    library.mkdir()
    for name, text in LIBRARY.items():
        (library / name).write_text(text)
    worker = site.at_work(slots=1)
    (child,) = worker.children()
    source = """
        def work():
            import once
            note("imported")
            {then}
            return os.getpid()

        importing = PipelineBuilder("importing")
        importing.add("work", work)
    """
    run = site.submit(source.format(then="wait_for('never')"))
    wait_until((library / "began").exists)

    run.ledger.cancel(run.run_id, "enough")

    assert run.ended().state == "cancelled"
    assert run.noted("imported") is not None
    assert [event.fields["how"] for event in run.events("attempt.stopped")] == [
        "it ended when asked"
    ]
    other = site.submit(source.format(then=""))
    record = other.ended()
    assert record.state == "succeeded", other.story()
    assert site.value(record, "work") == child.pid


def test_a_step_that_was_asked_to_end_tidies_up_undisturbed(new_site: NewSite) -> None:
    site = new_site(timeout_grace_s=10.0)
    site.at_work(slots=1)
    run = site.submit("""
        from orchestrator.worker import interruption

        def work():
            asked = 0

            def count(*signalled):
                nonlocal asked
                asked += 1
                interruption._stop(*signalled)

            signal.signal(signal.SIGUSR2, count)
            try:
                note("began")
                wait_for("never")
            finally:
                while asked < 4:
                    time.sleep(0.01)
                note("tidy")

        tidying = PipelineBuilder("tidying")
        tidying.add("work", work)
    """)
    run.wait_for_note("began")

    run.ledger.cancel(run.run_id, "enough")

    assert run.ended().state == "cancelled"
    assert run.noted("tidy") is not None
    assert [event.fields["how"] for event in run.events("attempt.stopped")] == [
        "it ended when asked"
    ]


def test_what_the_next_step_of_a_process_starts_is_not_stopped_with_a_step_that_has_just_ended(
    site: Site, wait_until: WaitUntil
) -> None:
    (site.folder / "late_app.py").write_text("""
import pathlib, time
from orchestrator.worker.main import stopping
from orchestrator.worker.app import app

FOLDER = pathlib.Path(__file__).parent
process_of, tell = stopping.current_process, stopping._report

def late(app):
    (FOLDER / "stopping").touch()
    while not (FOLDER / "next").exists():
        time.sleep(0.01)
    return process_of(app)

def tell_and_note(*told):
    tell(*told)
    (FOLDER / "told").touch()

stopping.current_process, stopping._report = late, tell_and_note
""")
    site.at_work(slots=1, app="late_app")
    run = site.submit("""
        def work():
            while not context.should_stop:  # it is not asked: who asks is late
                if is_noted("go"):
                    return

        ending = PipelineBuilder("ending")
        ending.add("work", work)
    """)
    run.wait_for("work", "running")
    run.ledger.cancel(run.run_id, "enough")
    other = site.submit("""
        def work():
            below = subprocess.Popen(["sleep", "600"])
            (FOLDER.parent / "next").touch()
            while not (FOLDER.parent / "told").exists():
                time.sleep(0.01)
            found = below.poll()
            below.kill()
            below.wait()
            return found

        starting = PipelineBuilder("starting")
        starting.add("work", work)
    """)
    wait_until((site.folder / "stopping").exists)
    run.note("go")

    record = other.ended()
    assert record.state == "succeeded"
    assert site.value(record, "work") is None


def test_a_worker_that_ends_while_its_server_is_away_says_so_at_a_calm_pace(
    server: Server, server_site: Site, wait_until: WaitUntil
) -> None:
    site = server_site
    (site.folder / "telling_app.py").write_text("""
from celery.signals import worker_shutdown
from orchestrator.worker.app import app

@worker_shutdown.connect(weak=False)
def tell(**_):
    print("all others have ended", flush=True)
""")
    worker = site.add_worker(slots=1, app="telling_app")
    run = site.submit("""
        def work():
            note("began")
            wait_for("never")

        lasting = PipelineBuilder("lasting")
        lasting.add("work", work)
    """)
    run.wait_for_note("began")
    server.kill()
    worker.tell(signal.SIGQUIT)
    wait_until(lambda: "all others have ended" in worker.log)

    main = psutil.Process(worker.process.pid)
    before, began = sum(main.cpu_times()[:2]), time.monotonic()
    threading.Event().wait(2)

    # it pauses between two tries
    assert sum(main.cpu_times()[:2]) - before < (time.monotonic() - began) / 2
    assert worker.log.count("leases cannot be renewed") == 1
    assert worker.is_alive


def test_a_solo_pool_hands_its_step_over_and_keeps_no_message(site: Site) -> None:
    site.coordinate()
    # All messages lie there before the worker comes, so that it begins with the one that goes
    # first.
    run = site.submit("""
        def hold():
            note("began")
            if context.attempt == 1:
                wait_for("never")
            return context.worker

        def work():
            return context.worker

        holding = PipelineBuilder("holding")
        holding.add("hold", hold, priority=0)
        for number in range(5):
            holding.add(f"work-{number}", work)
    """)
    worker = site.add_worker(pool="solo")
    run.wait_for_note("began")

    worker.tell(signal.SIGQUIT)

    assert worker.process.wait(20) == 0
    other = site.add_worker()
    record = run.ended()
    assert [attempt.outcome for attempt in record.steps["hold"].attempts] == [
        "handed_over",
        "succeeded",
    ]
    assert all(site.value(record, step).startswith(other.name) for step in record.steps)


BROKEN = """
from orchestrator.worker.failures import Failure
from orchestrator.worker.app import app

judge = Failure.of.__func__

def fail(cls, error, *told):
    if isinstance(error, ZeroDivisionError):
        raise {error}
    return judge(cls, error, *told)

Failure.of = classmethod(fail)
"""
BESIDE = """
    def work():
        note("began")
        wait_for("go")

    beside = PipelineBuilder("beside")
    beside.add("work", work)
"""
DIVIDING = """
    def work():
        return 1 / (context.attempt - 1)

    dividing = PipelineBuilder("dividing")
    dividing.add("work", work)
"""


@pytest.mark.parametrize("pool", ["prefork", "threads"])
@pytest.mark.parametrize(
    "error", ["MemoryError('no room')", "OSError(28, 'No space left on device')"]
)
def test_an_attempt_at_which_our_own_code_fails_is_replaced_at_once_and_the_record_says_why(
    new_site: NewSite, error: str, pool: str
) -> None:
    site = new_site(lease_s=60.0)
    (site.folder / "broken_app.py").write_text(BROKEN.format(error=error))
    worker = site.at_work(app="broken_app", pool=pool)
    beside = site.submit(BESIDE)
    beside.wait_for_note("began")

    run = site.submit(DIVIDING)

    record = run.ended(
        [("attempt.lost", "work", f"worker {worker.name}.* could not go on with it")]
    )
    assert record.state == "succeeded"
    (lost,) = run.events("attempt.lost")
    kind, _, text = error.partition("(")
    assert lost.fields["error"]["type"] == kind
    assert lost.fields["error"]["message"].startswith("the worker's own code failed: ")
    assert text.strip("')").rpartition("'")[2] in lost.fields["error"]["message"]
    assert "in run_attempt" in lost.fields["error"]["traceback"]
    assert worker.is_alive
    beside.note("go")
    assert beside.ended().state == "succeeded"


def test_no_secret_is_told_of_an_attempt_at_which_our_own_code_fails(new_site: NewSite) -> None:
    token = "s3cr3t of the run"
    site = new_site(lease_s=60.0)
    (site.folder / "telling_app.py").write_text(
        BROKEN.replace("raise {error}", 'raise OSError(28, f"cannot keep {error}") from error')
    )
    worker = site.at_work(app="telling_app", slots=1)

    run = site.submit(
        """
        from orchestrator import Secret

        def work(token):
            if context.attempt == 1:
                raise ZeroDivisionError(f"by {token}")

        @pipeline
        def telling(token: Secret[str]):
            step(work)(token)
    """,
        token=token,
    )

    assert run.ended([("attempt.lost", "work", "could not go on with it")]).state == "succeeded"
    (lost,) = run.events("attempt.lost")
    assert "cannot keep by ***" in lost.fields["error"]["message"]
    assert "ZeroDivisionError: by ***" in lost.fields["error"]["traceback"]
    assert "cannot keep by ***" in worker.log
    assert token not in worker.log + str(lost.fields)


def test_a_worker_outlives_that_its_own_code_fails_and_cannot_even_say_so(site: Site) -> None:
    (site.folder / "speechless_app.py").write_text(
        BROKEN.format(error="MemoryError")
        + """
from orchestrator.ledger.ledger import Ledger

def fail_too(*told, **more):
    raise MemoryError

Ledger.report_lost = fail_too
"""
    )
    worker = site.at_work(app="speechless_app")
    beside = site.submit(BESIDE)
    beside.wait_for_note("began")

    run = site.submit(DIVIDING)

    record = run.ended([("attempt.lost", "work", "the lease of worker .* ran out")])
    assert record.state == "succeeded"
    assert worker.is_alive
    beside.note("go")
    assert beside.ended().state == "succeeded"


def test_an_attempt_that_could_not_be_claimed_is_sent_again_at_the_pace_of_the_coordinators(
    site: Site, wait_until: WaitUntil
) -> None:
    (site.folder / "stubborn_app.py").write_text("""
import pathlib
from orchestrator.ledger.ledger import Ledger
from orchestrator.worker.app import app

claim = Ledger.claim
tries = pathlib.Path(__file__).with_name("tries")

def fail(self, attempt, *more):
    with tries.open("a") as file:
        print(attempt.step, file=file)
    if len(tries.read_text().split()) < 3:
        raise ValueError("no claim")
    return claim(self, attempt, *more)

Ledger.claim = fail
""")
    site.at_work(app="stubborn_app", slots=1)

    run = site.submit(DIVIDING.replace("context.attempt - 1", "2"))

    record = run.ended([("message.lost", "work", "")] * 2)
    assert record.state == "succeeded"
    moments = [event.at_us for event in run.events("message.lost")]
    assert moments[1] - moments[0] > 1_000_000 * site.settings.message_lost_after_s / 2


def test_a_log_that_cannot_be_shipped_is_not_shipped_with_the_next_one(site: Site) -> None:
    (site.folder / "mute_app.py").write_text("""
from orchestrator.ledger.ledger import Ledger
from orchestrator.worker.child import capture
from orchestrator.worker.app import app

capture.SHIP_INTERVAL_S = 3600  # at the end of the attempt only
append = Ledger.append_log

def fail(self, attempt, token, lines, limit, before):
    if "secret" in lines:
        raise ConnectionError("away")
    return append(self, attempt, token, lines, limit, before)

Ledger.append_log = fail
""")
    site.at_work(slots=1, app="mute_app")
    run = site.submit("""
        def tell():
            print("secret" if context.attempt == 1 else "open")

        telling = PipelineBuilder("telling")
        telling.add("tell", tell)
    """)

    assert run.ended([("attempt.lost", "tell", "could not go on with it")]).state == "succeeded"

    assert run.ledger.log_lines(AttemptId(run.run_id, "tell", 1)) == []
    assert run.ledger.log_lines(AttemptId(run.run_id, "tell", 2)) == ["open"]


def test_steps_that_obey_while_their_worker_ends_are_heard_beside_silent_ones(
    site: Site, wait_until: WaitUntil
) -> None:
    worker = site.at_work(slots=5)
    runs = [site.submit(BESIDE) for _ in range(5)]
    for run in runs:
        run.wait_for_note("began")
    worker.tell(signal.SIGTERM)
    wait_until(lambda: site.card(worker).queues == ())

    for run in runs[:4]:
        run.ledger.cancel(run.run_id, "enough")
        run.wait(lambda _, run=run: run.events("attempt.stopped"))

    assert [run.events("attempt.stopped")[0].fields["how"] for run in runs[:4]] == [
        "it ended when asked"
    ] * 4
    runs[4].note("go")
    assert worker.process.wait(20) == 0
    assert runs[4].ended().state == "succeeded"
