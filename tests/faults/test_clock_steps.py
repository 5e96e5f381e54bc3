"""The server's clock is put forward and back by an hour, while runs go on: nothing freezes, and
nothing is failed."""

from __future__ import annotations

import pytest
from redis import Redis

from orchestrator.ledger.server_clock import last_step_in
from tests.support.fixtures import WaitUntil
from tests.support.site.run import Run
from tests.support.site.server import Server
from tests.support.site.site import Site

pytestmark = pytest.mark.timeout(600)

SURVIVED_S = 120.0  # it takes some 10 s; what must not be waited for is the hour
HOUR_S = 3600

WORKING = """
    @step(timeout=300)
    def hold():
        note(f"hold-{context.attempt}")
        wait_for("go")
        return context.attempt

    @step(retries=1, retry_delay=3, retry_jitter=0)
    def again():
        note(f"again-{context.attempt}")
        if context.attempt == 1:
            raise ValueError("as planned")
        return context.attempt

    @step(queue_timeout=600)
    def waits(hold):
        return "waited"

    @pipeline(deadline=1200)
    def working():
        waits(hold())
        again()
"""
KILLED = """
    @step
    def hold():
        note(f"hold-{context.attempt}")
        wait_for("go")
        return context.attempt

    @pipeline
    def killed():
        hold()
"""


@pytest.fixture(
    params=[HOUR_S, -HOUR_S, 5, -5],
    ids=["an hour forward", "an hour back", "5 s forward", "5 s back"],
)
def by_s(request: pytest.FixtureRequest) -> int:
    return request.param


def clocks_shifted(run: Run) -> list[int]:
    return [round(event.fields["by_s"]) for event in run.events("clock.shifted")]


def put_seen(clock_site: tuple[Server, Site], by_s: int, wait_until: WaitUntil) -> None:
    """Put the server's clock, and wait until a coordinator has seen it, which it does though no run
    is active.

    What the test before has put may not be seen yet: the site's own look sees to that.
    """
    server, site = clock_site
    site.clock.look()
    key, known = f"{site.settings.key_prefix}:clock", site.clock.last_step
    server.put_clock(by_s)
    with Redis.from_url(server.url) as client:
        wait_until(lambda: last_step_in(client.get(key)) > known, SURVIVED_S)


def test_retries_leases_and_limits_outlive_a_step_of_the_clock(
    clock_site: tuple[Server, Site], by_s: float, wait_until: WaitUntil
) -> None:
    server, site = clock_site
    site.fill_workers(2)
    run = site.submit(WORKING)
    run.wait_for_note("hold-1")
    run.wait_for_note("again-1")
    run.wait(lambda record: record.steps["again"].state == "retrying")
    last_event = int(run.events()[-1].id.partition("-")[0])

    server.put_clock(by_s)
    wait_until(lambda: clocks_shifted(run), SURVIVED_S)
    run.wait_for("again", "succeeded", SURVIVED_S)
    run.note("go")
    run.wait(within_s=SURVIVED_S)

    record = run.ended()
    assert record.state == "succeeded", run.story()
    assert {name: len(step.attempts) for name, step in record.steps.items()} == {
        "hold": 1,
        "again": 2,
        "waits": 1,
    }
    assert clocks_shifted(run) == [by_s]  # though there are two coordinators
    assert all(
        int(event.id.partition("-")[0]) >= last_event for event in run.events("clock.shifted")
    )


def test_a_dead_worker_is_found_though_its_lease_is_of_another_hour(
    clock_site: tuple[Server, Site], by_s: float
) -> None:
    server, site = clock_site
    site.fill_workers(1)
    run = site.submit(KILLED)
    run.wait_for_note("hold-1")
    running_on = run.wait_for("hold", "running").steps["hold"].attempts[0].worker
    (doomed,) = [worker for worker in site.workers if running_on.startswith(f"{worker.name}.")]

    doomed.kill()
    server.put_clock(by_s)
    site.fill_workers(1)
    run.wait(lambda _: run.noted("hold-2") is not None, SURVIVED_S)
    run.note("go")

    record = run.ended(lambda repairs: [repair.kind for repair in repairs] == ["attempt.lost"])
    assert record.state == "succeeded", run.story()
    assert len(record.steps["hold"].attempts) == 2


def test_tokens_grow_when_the_clock_is_put_back(clock_site: tuple[Server, Site]) -> None:
    server, site = clock_site
    site.fill_workers(1)
    run = site.submit(KILLED.replace('wait_for("go")', 'assert context.attempt > 1, "as planned"'))
    assert run.ended().state == "failed"
    before = int(run.ledger.run_fields(run.run_id)["token"])

    server.put_clock(-HOUR_S)
    run.resume()
    assert run.ended().state == "succeeded"

    assert int(run.ledger.run_fields(run.run_id)["token"]) > before


def test_a_run_that_begins_after_the_clock_was_put_is_not_shifted(
    clock_site: tuple[Server, Site], wait_until: WaitUntil
) -> None:
    _, site = clock_site
    site.fill_workers(1)
    put_seen(clock_site, HOUR_S, wait_until)
    first = site.submit(KILLED.replace('wait_for("go")', ""))
    first.ended()
    second = site.submit(KILLED.replace('wait_for("go")', ""))

    assert second.ended().state == "succeeded"
    assert not first.events("clock.shifted")
    assert not second.events("clock.shifted")


def test_two_steps_of_the_clock_are_not_seen_as_their_sum(
    clock_site: tuple[Server, Site], wait_until: WaitUntil
) -> None:
    """They would cancel each other out; a run that begins in between has its times by the clock as
    it was then."""
    for by_s in (HOUR_S, -HOUR_S):
        put_seen(clock_site, by_s, wait_until)
