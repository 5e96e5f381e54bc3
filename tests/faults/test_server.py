"""The server is cut off, killed and paused: what is committed stays, and nothing is taken over
because of it."""

from __future__ import annotations

import threading
from collections.abc import Callable

from orchestrator.attempt_id import AttemptId
from orchestrator.record.run import RunRecord
from tests.support.site.run import Run
from tests.support.site.server import Server
from tests.support.site.site import Site

WORKING = """
    @step
    def hold():
        note("began")
        print("before")
        wait_for("go")
        print("after")
        return context.attempt

    @step(retries=1, retry_delay=1, retry_jitter=0)
    def again():
        if context.attempt == 1:
            raise ValueError("as planned")
        return context.attempt

    @step
    def work(number):
        note(f"work-{number}-{context.attempt}")
        time.sleep(0.1)
        return number

    @step
    def total(*numbers):
        return sum(numbers)

    @pipeline
    def working():
        total(hold(), again(), *[work(number) for number in range(20)])
"""
HOLDING = """
    @step
    def hold():
        note("began")
        wait_for("go")

    @pipeline
    def holding():
        hold()
"""
TOTAL = 1 + 2 + sum(range(20))


def cut(site: Site) -> None:
    """Cut every connection to the server but our own."""
    for kind in ("normal", "pubsub"):
        site.client.execute_command("CLIENT", "KILL", "TYPE", kind)


def has_begun(run: Run) -> Callable[[RunRecord], bool]:
    return lambda record: (
        run.noted("began") is not None and record.steps["again"].state == "retrying"
    )


def test_connections_cut_in_the_middle_of_a_step_do_no_harm(server_site: Site) -> None:
    site = server_site
    site.at_work()
    run = site.submit("""
        @step
        def hold():
            note("began")
            print("before")
            wait_for("go")
            print("after")

        @step
        def below(value):
            return "done"

        @pipeline
        def cut():
            below(hold())
    """)
    run.wait_for_note("began")

    cut(site)
    run.note("go")

    record = run.ended()
    assert record.state == "succeeded"
    assert run.ledger.log_lines(AttemptId(run.run_id, "hold", 1)) == ["before", "after"]
    assert all(len(step.attempts) == 1 for step in record.steps.values())


def test_connections_cut_again_and_again_cost_messages_at_most(server_site: Site) -> None:
    site = server_site
    site.add_workers(2)
    site.coordinate()
    run = site.submit(WORKING)
    run.wait_for_note("began")

    for _ in range(6):
        cut(site)
        threading.Event().wait(0.3)
    run.note("go")

    record = run.ended(lambda repairs: all(repair.kind == "message.lost" for repair in repairs))
    assert record.state == "succeeded", run.story()
    assert [len(step.attempts) for name, step in record.steps.items() if name != "again"] == [
        1
    ] * 22
    assert site.value(record, "total") == TOTAL


def test_a_server_that_is_killed_and_started_again_loses_nothing_and_repeats_nothing(
    server: Server, server_site: Site
) -> None:
    site = server_site
    site.add_workers(2)
    site.coordinate()
    run = site.submit(WORKING)
    run.wait(has_begun(run))

    server.kill()
    run.note("go")
    threading.Event().wait(2 * site.settings.lease_s)
    server.restart()

    # A message that was on its way when the server died may be lost; an attempt may not.
    record = run.ended(lambda repairs: all(repair.kind == "message.lost" for repair in repairs))
    assert record.state == "succeeded", run.story()
    assert [len(step.attempts) for name, step in record.steps.items() if name != "again"] == [
        1
    ] * 22
    assert not [event for event in run.events() if event.kind.endswith(".refused")]
    assert site.value(record, "total") == TOTAL
    assert run.ledger.log_lines(AttemptId(run.run_id, "hold", 1)) == ["before", "after"]


def test_a_server_that_is_paused_for_longer_than_a_lease_costs_no_attempt(
    server: Server, server_site: Site
) -> None:
    site = server_site
    site.add_workers(2)
    site.coordinate()
    run = site.submit(WORKING)
    run.wait(has_begun(run))

    server.pause(10)
    run.wait(lambda _: all(run.noted(f"work-{number}-1") is not None for number in range(20)))
    run.note("go")

    record = run.ended()
    assert record.state == "succeeded", run.story()
    assert [len(step.attempts) for name, step in record.steps.items() if name != "again"] == [
        1
    ] * 22
    assert site.value(record, "total") == TOTAL


def test_a_worker_takes_steps_again_soon_after_its_server_was_away_for_long(
    server: Server, server_site: Site
) -> None:
    site = server_site
    site.at_work()
    site.submit(WORKING.replace('wait_for("go")', "pass")).wait()

    server.kill()
    threading.Event().wait(13)
    server.restart()
    run = site.submit(WORKING)
    run.wait_for("hold", "running", 5)

    run.note("go")
    assert run.ended(lambda repairs: True).state == "succeeded"


def test_a_step_that_a_child_begins_after_its_worker_had_to_connect_anew_keeps_its_lease(
    server_site: Site,
) -> None:
    """The child got the message and had not answered yet when the connection broke."""
    site = server_site
    worker = site.at_work(slots=1)
    first = site.submit(HOLDING.replace('wait_for("go")', "pass"))
    first.wait()
    first.wait(
        lambda _: any(
            it["cmd"] == "brpop" and "b" in it["flags"] for it in site.client.client_list()
        )
    )
    (child,) = worker.children()

    child.suspend()
    run = site.submit(HOLDING)
    run.wait(lambda _: not site.messages())
    threading.Event().wait(0.2)
    cut(site)
    run.wait(lambda _: "Connected to redis" in worker.log.rpartition("messages cannot be taken")[2])
    child.resume()
    run.wait_for_note("began")
    leased_until = run.ledger.due_at(run.run_id, "hold") + 2_000_000 * site.settings.lease_s
    run.wait(lambda _: (run.ledger.due_at(run.run_id, "hold") or 0) > leased_until)

    run.note("go")
    record = run.wait()
    assert record.state == "succeeded"
    assert len(record.steps["hold"].attempts) == 1
