"""A run that harm has ended goes on where it was, once the cause is gone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from orchestrator.attempt_id import AttemptId
from tests.support.sending import send_chains
from tests.support.site.run import Run
from tests.support.site.site import Site

HARMED = """
    def harm():
        note("began")
        {harm}

    @step
    def kept():
        return context.attempt

    @step{options}
    def harmed(value):
        if not is_noted("fixed"):
            harm()
        return value + 1

    @step
    def below(value):
        return value + 1

    @pipeline{pipeline_options}
    def harming():
        below(harmed(kept()))
"""
HANG = 'subprocess.run(["sh", "-c", "trap \'\' TERM; sleep 600 & wait"])'


def cancel_run(run: Run) -> None:
    run.ledger.cancel(run.run_id, "its test says so")


def cancel_step(run: Run) -> None:
    _, chains = run.ledger.cancel_steps(run.run_id, ["harmed"], "its test says so")
    send_chains(run.site.app, run.run_id, chains)


# What the step does, its options, those of the pipeline, what else is done, how the run ends,
# outcomes of the attempts.
HARMS = {
    "an exception": ('raise ValueError("as planned")', "", "", None, "failed", ["failed"]),
    "no memory": (
        "raise MemoryError",
        "(retries=1, retry_delay=0)",
        "",
        None,
        "failed",
        ["failed", "failed"],
    ),
    "a child killed each time": (
        "os.kill(os.getpid(), signal.SIGKILL)",
        "",
        "",
        None,
        "failed",
        ["lost"] * 3,
    ),
    "a timeout": (HANG, "(timeout=0.5)", "", None, "failed", ["timed_out"]),
    "a timeout of C code": (
        "sum(range(10**12))",
        "(timeout=0.5)",
        "",
        None,
        "failed",
        ["timed_out"],
    ),
    "a missed deadline": (HANG, "", "(deadline=2)", None, "failed", ["cancelled"]),
    "a cancelled run": (HANG, "", "", cancel_run, "cancelled", ["cancelled"]),
    "a cancelled step": (HANG, "", "", cancel_step, "cancelled", ["cancelled"]),
}


def assert_goes_on(
    run: Run, outcomes: list[str], repairs: Sequence[tuple[str, str, str]] = ()
) -> None:
    before = run.events()
    run.note("fixed")

    run.resume()

    record = run.ended(repairs)
    assert record.state == "succeeded"
    assert [attempt.outcome for attempt in record.steps["kept"].attempts] == ["succeeded"]
    assert [attempt.outcome for attempt in record.steps["harmed"].attempts] == [
        *outcomes,
        "succeeded",
    ]
    assert run.site.value(record, "below") == 3
    assert run.events()[: len(before)] == before


@pytest.mark.parametrize("harm", HARMS)
def test_a_run_is_resumed_after(shared: Site, harm: str) -> None:
    what, options, pipeline_options, do, state, outcomes = HARMS[harm]
    run = shared.submit(
        HARMED.format(harm=what, options=options, pipeline_options=pipeline_options)
    )
    if do:
        run.wait_for_note("began")
        do(run)
    repairs = [("attempt.lost", "harmed", "is gone")] * (outcomes.count("lost") - 1)

    assert run.ended(repairs).state == state

    assert_goes_on(run, outcomes, repairs)


def test_a_run_is_resumed_after_its_step_has_lost_too_many_workers(site: Site) -> None:
    site.coordinate()
    worker = site.add_worker(slots=1)
    run = site.submit(HARMED.format(harm=HANG, options="(lost_attempts=1)", pipeline_options=""))
    run.wait_for_note("began")
    worker.kill()
    site.add_worker(slots=1)

    assert run.ended().state == "failed"
    assert run.events("step.failed")[0].fields["error"]["type"] == "HostLost"

    assert_goes_on(run, ["lost"])


def test_a_run_is_resumed_after_its_step_has_waited_too_long_for_a_worker(site: Site) -> None:
    site.coordinate()
    run = site.submit("""
        @step(queue_timeout=1)
        def patient():
            return context.attempt

        @step
        def below(value):
            return value
    """)
    assert run.ended().state == "failed"
    site.add_worker(slots=1)

    run.resume()

    record = run.ended()
    assert record.state == "succeeded"
    assert site.value(record, "below") == 2


def test_a_run_that_is_resumed_while_its_old_attempt_wakes_is_not_disturbed_by_it(
    site: Site,
) -> None:
    """The worker is frozen, its step cancelled, the lease over, the run resumed: then the old
    attempt goes on."""
    site.coordinate()
    frozen = site.add_worker(slots=1)
    run = site.submit("""
        @step
        def hold():
            note(f"began-{context.attempt}")
            wait_for(f"go-{context.attempt}")
            print("attempt", context.attempt)
            return context.attempt
    """)
    run.wait_for_note("began-1")
    frozen.halt()
    cancel_run(run)
    run.wait(lambda _: not run.ledger.leased(run.run_id))
    other = site.add_worker(slots=1)
    run.resume()
    run.wait_for_note("began-2")

    run.note("go-1")
    frozen.children()[0].resume()
    run.wait(lambda _: run.events("commit.refused"))
    frozen.go_on()
    run.note("go-2")

    record = run.ended()
    assert record.state == "succeeded"
    assert site.value(record, "hold") == 2
    assert record.steps["hold"].attempts[1].worker.startswith(other.name)
    assert run.ledger.log_lines(AttemptId(run.run_id, "hold", 1)) == []
    assert len(run.events("log.refused")) == 1
