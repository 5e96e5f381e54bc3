"""What a timeout counts: the step's own call, and not the time in which server or store are
away."""

from __future__ import annotations

import threading

import pytest

from tests.support.site.server import Server
from tests.support.site.site import Site

TIMEOUT_S = 1.5

ENDING = f"""
    @step(timeout={TIMEOUT_S})
    def hold():
        note("began")
        wait_for("go")
        note("ended")
        if is_noted("fail"):
            raise ValueError("as planned")
        return 1

    @step(trigger="all_done")
    def below(hold):
        pass

    @pipeline
    def ending():
        below(hold())
"""
READING = f"""
    def load():
        note("loading")
        wait_for("go")
        return "loaded"

    class Slow:
        def __reduce__(self):
            return load, ()

    @step
    def big():
        return Slow()

    @step(timeout={TIMEOUT_S})
    def reader(big):
        return big

    @pipeline
    def reading():
        reader(big())
"""


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
@pytest.mark.parametrize("outcome", ["succeeded", "failed"])
def test_an_attempt_whose_call_ended_in_time_is_not_timed_out_while_it_waits_for_the_server(
    server: Server, server_site: Site, pool: str, outcome: str
) -> None:
    site = server_site
    site.at_work(pool=pool)
    run = site.submit(ENDING)
    run.wait_for_note("began")
    if outcome == "failed":
        run.note("fail")

    server.kill()
    run.note("go")
    run.wait_for_note("ended")
    threading.Event().wait(2 * TIMEOUT_S)
    server.restart()

    record = run.ended(lambda repairs: all(repair.kind == "message.lost" for repair in repairs))
    assert [attempt.outcome for attempt in record.steps["hold"].attempts] == [outcome], run.story()
    assert not run.events("attempt.stopped")


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_loading_inputs_does_not_count(site: Site, pool: str) -> None:
    site.at_work(pool=pool)
    run = site.submit(READING)

    run.wait_for_note("loading")
    threading.Event().wait(2 * TIMEOUT_S)
    run.note("go")

    record = run.ended()
    assert [attempt.outcome for attempt in record.steps["reader"].attempts] == ["succeeded"], (
        run.story()
    )
    assert site.value(record, "reader") == "loaded"


def test_time_before_the_server_went_away_counts_and_time_after_it(
    server: Server, server_site: Site
) -> None:
    """A call that goes on while the server is away is timed out as ever: its time is its own."""
    site = server_site
    site.at_work()
    run = site.submit(ENDING)
    run.wait_for_note("began")

    server.kill()
    threading.Event().wait(2 * TIMEOUT_S)
    server.restart()

    record = run.ended(lambda repairs: all(repair.kind == "message.lost" for repair in repairs))
    assert [attempt.outcome for attempt in record.steps["hold"].attempts] == ["timed_out"], (
        run.story()
    )
    assert run.noted("ended") is None


def test_time_in_which_the_server_is_away_counts_for_no_deadline_and_no_queue_timeout(
    server: Server, server_site: Site
) -> None:
    away_s = 12  # so long may a worker take to start afterwards
    site = server_site
    site.coordinate(2)
    run = site.submit(f"""
        @step(queue_timeout={away_s})
        def waits():
            return 1

        @pipeline(deadline={away_s})
        def limited():
            waits()
    """)
    run.wait(lambda _: run.ledger.run_fields(run.run_id).get("tended_at"))

    server.kill()
    threading.Event().wait(away_s)
    server.restart()
    run.wait(lambda _: run.events("clock.paused"))
    site.add_worker()

    record = run.ended(lambda repairs: all(repair.kind == "message.lost" for repair in repairs))
    assert record.state == "succeeded", run.story()
    (paused,) = run.events("clock.paused")  # though there are two coordinators
    assert paused.fields["for_s"] > away_s / 2
