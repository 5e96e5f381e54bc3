"""Steps that are cancelled or take too long: they are gone soon, whatever they do, with all that
they started."""

from __future__ import annotations

import pytest

from tests.support.sending import send_chains
from tests.support.site.run import Run
from tests.support.site.server import Server
from tests.support.site.site import NewSite, Site

ENDED_WHEN_ASKED = "it ended when asked"
KILLED = "killed after a grace of 0.5 s"
KILLED_BELOW = "it ended when asked; what it had started was killed after a grace of 0.5 s"

# What the step does, how many commands that turn a deaf ear to SIGTERM it has started then, and how
# it is stopped.
STEPS = {
    "python": ("slow.add('slow', turn{options})", 0, ENDED_WHEN_ASKED),
    "python that swallows": ("slow.add('slow', swallow{options})", 0, KILLED),
    "C that holds the GIL": ("slow.add('slow', count{options})", 0, KILLED),
    "python with commands": ("slow.add('slow', command{options})", 4, KILLED_BELOW),
    "shell": (
        (
            "slow.add('slow', run=f'touch {{FOLDER}}/began; {{DEAF}} & setsid {{DEAF}} &"
            " {{DEAF}}'{options})"
        ),
        6,
        KILLED_BELOW,
    ),
}
SOURCE = """
    DEAF = "sh -c 'trap \\"\\" TERM INT HUP; sleep 600 & sleep 600'"

    def turn():
        note("began")
        while True:
            pass

    def swallow():
        note("began")
        while True:
            try:
                time.sleep(600)
            except BaseException:
                pass

    def count():
        note("began")
        sum(range(10**12))

    def command():
        subprocess.Popen(f"setsid {{DEAF}}", shell=True)
        subprocess.Popen(DEAF, shell=True)
        turn()

    slow = PipelineBuilder("slow")
    {add}
    slow.add("below", "time:time", needs="slow")
"""


def submit(site: Site, name: str, options: str = "") -> tuple[Run, str]:
    add, commands, how = STEPS[name]
    run = site.submit(SOURCE.format(add=add.format(options=options)))
    run.wait_for_note("began")
    run.wait(lambda _: site.commands("sleep") == commands)
    return run, how


@pytest.mark.parametrize("name", STEPS)
def test_a_cancelled_step_is_gone_soon_with_all_it_started_and_the_record_says_how(
    shared: Site, name: str
) -> None:
    run, how = submit(shared, name)

    run.ledger.cancel(run.run_id, "enough")
    shared.assert_nothing_left()

    record = run.ended()
    assert record.state == "cancelled"
    assert record.cancel_reason == "enough"
    (stopped,) = run.events("attempt.stopped")
    assert (stopped.step, stopped.attempt) == ("slow", 1)
    assert stopped.fields["reason"] == "cancelled"
    assert stopped.fields["how"] == how
    assert stopped.fields["after_s"] < 2 + shared.settings.timeout_grace_s
    assert record.steps["below"].attempts == []


@pytest.mark.parametrize("name", STEPS)
def test_a_step_that_takes_too_long_is_gone_soon_with_all_it_started(
    shared: Site, name: str
) -> None:
    run, how = submit(shared, name, ", timeout=1")

    record = run.ended()

    assert record.state == "failed"
    (attempt,) = record.steps["slow"].attempts
    assert attempt.outcome == "timed_out"
    assert (
        attempt.ended_at_us - attempt.started_at_us
    ) / 1e6 < 1 + 2 + shared.settings.timeout_grace_s
    told = "" if how.startswith(ENDED_WHEN_ASKED) else f"; it did not stop when asked and was {how}"
    assert attempt.error.message == f"the attempt took longer than its timeout of 1 s{told}"
    assert record.steps["below"].state == "upstream_failed"


def test_a_pool_that_cannot_end_a_step_says_so_and_asks_it(site: Site) -> None:
    worker = site.at_work(pool="threads")
    source = """
        def obey():
            note("began")
            while not context.should_stop:
                time.sleep(0.01)
            note("obeyed")
            wait_for("go")

        slow = PipelineBuilder("slow")
        slow.add("slow", obey{options})
        slow.add("below", "time:time", needs="slow")
    """
    assert (
        "a pool of type threads cannot end a step: timeouts, cancelling and draining only ask it to"
        " stop" in worker.log
    )
    cancelled = site.submit(source.format(options=""))
    timed_out = site.submit(source.format(options=", timeout=0.5"))
    cancelled.wait_for_note("began")

    cancelled.ledger.cancel(cancelled.run_id, "enough")
    for run in (cancelled, timed_out):
        run.wait_for_note("obeyed")
        assert not run.events("attempt.stopped")
        assert not run.events("step.failed")
        run.note("go")

    cancelled.wait(lambda _: cancelled.events("attempt.stopped"))
    record = cancelled.ended()
    assert record.state == "cancelled"
    (stopped,) = cancelled.events("attempt.stopped")
    assert stopped.fields["how"] == "it ended by itself: its pool cannot end a step"
    record = timed_out.ended()
    assert record.state == "failed"
    (attempt,) = record.steps["slow"].attempts
    assert attempt.outcome == "timed_out"
    assert (
        attempt.error.message
        == "the attempt took longer than its timeout of 0.5 s; its pool cannot end a step, so it"
        " was waited for"
    )


def test_one_step_of_a_run_can_be_cancelled_and_the_rest_goes_on(shared: Site) -> None:
    run = shared.submit("""
        @step
        def slow():
            note("began")
            subprocess.run(["sleep", "600"])

        @step(trigger="all_done")
        def after():
            return "went on"

        @step
        def below(value):
            return value

        @pipeline
        def branching():
            value = slow()
            below(value)
            after().after(value)
    """)
    run.wait_for_note("began")

    _, chains = run.ledger.cancel_steps(run.run_id, ["slow"], "not needed")
    send_chains(shared.app, run.run_id, chains)

    run.wait(lambda _: run.events("attempt.stopped"))
    record = run.ended()
    assert {name: step.state.value for name, step in record.steps.items()} == {
        "slow": "cancelled", "below": "upstream_failed", "after": "succeeded"
    }  # fmt: skip
    assert record.steps["slow"].cancel_reason == "not needed"


def test_a_cancelled_step_whose_server_was_away_is_waited_for_until_it_is_gone(
    server: Server, server_site: Site
) -> None:
    """Nobody could renew meanwhile. A resume would begin another attempt beside the one that is
    being stopped."""
    site = server_site
    site.settings = site.settings.model_copy(update={"timeout_grace_s": 4.0})
    site.add_workers(2)
    site.coordinate()
    run = site.submit("""
        def beat():
            note("began")
            while True:
                try:
                    note(f"beat-{context.attempt}", time.time())
                    time.sleep(0.02)
                except BaseException:
                    pass

        beating = PipelineBuilder("beating")
        beating.add("beat", beat)
    """)
    run.wait_for_note("began")

    run.ledger.cancel(run.run_id, "enough")
    server.pause(2 * site.settings.lease_s)
    run.resume()
    run.wait_for_note("beat-2")

    last_beat, began = float(run.noted("beat-1")), run.events("step.started")[-1].at_us / 1e6
    assert last_beat < began
    assert [event.fields["how"] for event in run.events("attempt.stopped")] == [
        "killed after a grace of 4 s"
    ]
    run.ledger.cancel(run.run_id, "over")
    run.wait(lambda _: not run.ledger.stopping(run.run_id))


@pytest.mark.parametrize(
    ("end", "option", "how"),
    [
        ("return", "", "it ended by itself"),
        ("raise ValueError", "", "it ended by itself"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "", "its process died"),
        ("pass", ", timeout=0.3", "killed after a grace of 1.5 s"),
    ],
    ids=["it returns", "it raises", "its process dies", "it has timed out"],
)
def test_a_step_that_ends_before_its_worker_hears_that_it_is_cancelled_is_over_at_once(
    new_site: NewSite, monkeypatch: pytest.MonkeyPatch, end: str, option: str, how: str
) -> None:
    site = new_site(lease_s=20.0, timeout_grace_s=1.5)
    site.at_work()
    run = site.submit(f"""
        def end():
            note("began")
            while not is_noted("go"):
                try:
                    time.sleep(0.02)
                except BaseException:
                    note("asked")
            {end}

        ending = PipelineBuilder("ending")
        ending.add("end", end{option})
    """)
    run.wait_for_note("asked" if option else "began")
    monkeypatch.setattr(run.ledger, "_nudge", lambda workers: None)

    run.ledger.cancel(run.run_id, "enough")
    if not option:
        run.note("go")

    run.wait(lambda _: not run.ledger.stopping(run.run_id), 5)
    assert [event.fields["how"] for event in run.events("attempt.stopped")] == [how]
