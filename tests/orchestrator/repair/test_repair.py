"""What a coordinator finds of leases that ran out: whose fault it was, and when it does not
judge."""

from __future__ import annotations

import json
import time

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from orchestrator.attempt_id import AttemptId
from orchestrator.coordinator.coordinator import Coordinator, UnwatchedRuns
from orchestrator.ledger import run_lists
from orchestrator.ledger.connection import connect
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.presence import WorkerCard, announce_worker, present_workers
from orchestrator.ledger.values import RunUnknown
from orchestrator.messages.queues import attempt_in, list_key
from orchestrator.repair.messages import SETTLED_S
from orchestrator.repair.repair import Repair
from orchestrator.runs.submission import submit
from orchestrator.runs.visiting import Visitor
from orchestrator.settings.model import Settings
from tests.support.runs import events_of, graph, start_graph, states_of

LEASE_S = 0.5


@pytest.fixture
def quick(chosen: Settings) -> Settings:
    return chosen.model_copy(
        update={"lease_s": LEASE_S, "poll_interval_s": 0.05, "message_lost_after_s": 0.4}
    )


def trouble(repair):
    """The server does not answer for once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repair, "_ledger", Ledger(connect("redis://127.0.0.1:1/0", retries=0)))
        with pytest.raises(RedisConnectionError):
            repair.inspect("run")


def lost(ledger, run_id):
    return [
        event.fields["error"]["type"]
        for event in ledger.events(run_id)
        if event.kind == "attempt.lost"
    ]


@pytest.mark.parametrize(
    ("living", "cause"),
    [(None, "HostLost"), ("beef", "WorkerHung"), ("cafe", "WorkerLost")],
    ids=str,
)
def test_a_lease_that_ran_out_is_told_by_whether_its_worker_lives(
    ledger, app, quick, wait_until, living, cause
):
    """`living` is the incarnation of the worker that bears the name now."""
    run_id = start_graph(ledger, {"a": ""})
    assert ledger.claim(AttemptId(run_id, "a", 1), "beef.12.1", "w", LEASE_S)
    visitor = Visitor(ledger, app, quick)

    def look():
        if living:
            announce_worker(
                ledger.client,
                ledger.prefix,
                WorkerCard("w", ("cpu",), 1, "prefork", "host", 1, living),
            )
        visitor.visit(run_id)
        return lost(ledger, run_id)

    wait_until(look)

    assert lost(ledger, run_id) == [cause]
    assert states_of(ledger, run_id) == {"a": "queued"}


def test_no_lease_of_a_cancelled_attempt_is_judged_before_workers_could_renew(
    ledger, quick, wait_until
) -> None:
    run_id = start_graph(ledger, {"a": ""})
    repair = Repair(ledger, quick)
    assert ledger.claim(AttemptId(run_id, "a", 1), "c", "w", 0.000_001)
    ledger.cancel(run_id, "enough")

    trouble(repair)
    began = time.monotonic()
    repair.act_on(run_id, repair.inspect(run_id))
    assert ledger.stopping(run_id)
    wait_until(lambda: repair.act_on(run_id, repair.inspect(run_id)) or not ledger.stopping(run_id))

    assert time.monotonic() - began >= quick.renewal_interval_s
    assert [event for event, _, _ in events_of(ledger, run_id)].count("attempt.stopped") == 1


def test_no_lease_is_judged_before_workers_had_the_server_for_a_renewal(
    ledger, quick, wait_until
) -> None:
    """While it was away nobody could renew; a worker that lives does so before the coordinator
    judges."""
    run_id = start_graph(ledger, {"a": "", "b": ""})
    repair = Repair(ledger, quick)

    def judged(step):
        report = ledger.advance_due(run_id)
        assert [lease.step for lease in report.expired] == [step]
        return [chain.links[0].step for chain in repair.act_on(run_id, report)]

    for step in "ab":
        assert ledger.claim(AttemptId(run_id, step, 1), step, "w", 0.000_001)
        trouble(repair)
        began = time.monotonic()
        assert judged(step) == []
        wait_until(lambda step=step: judged(step) == [step])
        assert time.monotonic() - began >= quick.renewal_interval_s

    assert [event for event, _, _ in events_of(ledger, run_id)].count("attempt.lost") == 2


def test_no_lease_is_judged_when_the_servers_clock_was_put_forward_just_now(
    ledger, quick, wait_until
) -> None:
    run_id = start_graph(ledger, {"a": "", "b": ""})
    repair = Repair(ledger, quick)

    def judged(step, forward_us=0):
        repair.contact.note_contact(time.monotonic(), ledger.now_us() + forward_us)
        ledger.claim(AttemptId(run_id, step, 1), step, "w", 0.000_001)
        return [chain.links[0].step for chain in repair.act_on(run_id, ledger.advance_due(run_id))]

    wait_until(lambda: judged("a") == ["a"])

    assert judged("b", 10_000_000) == []
    wait_until(lambda: judged("b", 10_000_000) == ["b"])


def test_a_message_that_lies_behind_younger_ones_is_not_lost(
    ledger, app, quick, wait_until
) -> None:
    """As one that a worker gave back, or one of many that were still being sent when a shorter run
    was submitted."""
    early = submit(graph({"a": "", "b": ""}).plan(), ledger, app, quick)
    key = list_key(quick.queue_of(), 3)
    first, second = ledger.client.lpop(key, 2)
    sent_at = ledger.sent_at_us(AttemptId(early, "a", 1), quick.queue_of(), 3)
    wait_until(lambda: ledger.now_us() > sent_at + 1_100_000)
    submit(graph({"c": ""}).plan(), ledger, app, quick)
    ledger.client.lpush(key, second)  # behind c, and the other one is gone
    assert {attempt_in(text).step for text in (first, second)} == {"a", "b"}
    visitor, began = Visitor(ledger, app, quick), time.monotonic()

    def mended():
        visitor.visit(early)
        return [event.step for event in ledger.events(early) if event.kind == "message.lost"]

    wait_until(mended)
    wait_until(lambda: mended() and time.monotonic() > began + 5 * quick.message_lost_after_s)

    assert mended() == [attempt_in(first).step]


def test_thousands_of_lost_messages_are_sent_again_together(ledger, app, quick, wait_until) -> None:
    """As when somebody deletes the queue of a wide run."""
    run_id = submit(graph({f"s{number}": "" for number in range(1500)}).plan(), ledger, app, quick)
    key = list_key(quick.queue_of(), 3)
    ledger.client.delete(key)
    sent_us, visitor = ledger.now_us(), Visitor(ledger, app, quick)
    wait_until(lambda: ledger.now_us() > sent_us + 1.1 * SETTLED_S * 1e6)

    def lengths():
        visitor.visit(run_id)
        return ledger.client.llen(key)

    wait_until(lengths)

    assert ledger.client.llen(key) == 1500


def test_a_run_that_no_coordinator_knows_of_is_found(ledger, app, quick) -> None:
    """Who started it died in between, just when a coordinator had struck it as one that is not
    started yet."""
    run_id, ended = start_graph(ledger, {"a": ""}), start_graph(ledger, {"a": ""})
    ledger.cancel(ended, "enough")
    for it in (run_id, ended):
        ledger.client.srem(f"{ledger.prefix}:active", it)

    Coordinator(ledger, app, quick).round()

    assert ledger.active_runs() == [run_id]


def test_every_run_that_no_coordinator_knows_of_is_found_however_old_it_is(
    ledger, monkeypatch
) -> None:
    monkeypatch.setattr(run_lists, "RUNS_TENDED", 2)
    run_ids = [start_graph(ledger, {"a": ""}) for _ in range(9)]
    ledger.client.delete(f"{ledger.prefix}:active")
    duty = UnwatchedRuns(ledger)

    for _ in range(2):
        duty.do(0.0)
    assert duty._older_than == run_ids[4]
    ledger.client.zrem(f"{ledger.prefix}:runs", run_ids[4])
    for _ in range(6):
        duty.do(0.0)

    assert set(ledger.active_runs()) == set(run_ids)


def test_a_run_that_somebody_deleted_is_no_trouble_for_the_others(
    ledger, app, quick, caplog
) -> None:
    gone, kept = start_graph(ledger, {"a": ""}), start_graph(ledger, {"a": ""})
    ledger.client.delete(*ledger.client.keys(f"{ledger.prefix}:{{{gone}}}:*"))
    coordinator = Coordinator(ledger, app, quick)

    coordinator.round()

    assert ledger.active_runs() == [kept]
    assert caplog.text == ""
    with pytest.raises(RunUnknown):
        Visitor(ledger, app, quick).visit(gone)
    assert (ledger.recent_runs(10), ledger.runs_that_begin_with("run-")) == ([kept], [kept])


def test_a_worker_of_another_version_is_no_hindrance(ledger, app, quick, wait_until) -> None:
    run_id = start_graph(ledger, {"a": ""})
    assert ledger.claim(AttemptId(run_id, "a", 1), "beef.12.1", "w", LEASE_S)
    visitor = Visitor(ledger, app, quick)
    card = {
        "worker": "w",
        "queues": ["cpu"],
        "slots": 1,
        "pool_type": "prefork",
        "host": "h",
        "pid": 1,
        "new": True,
    }

    def look():
        announce_worker(
            ledger.client, ledger.prefix, WorkerCard("w", ("cpu",), 1, "prefork", "h", 1)
        )
        ledger.client.set(f"{ledger.prefix}:worker:w", json.dumps(card))
        visitor.visit(run_id)
        return lost(ledger, run_id)

    wait_until(look)

    assert [it.worker for it in present_workers(ledger.client, ledger.prefix)] == ["w"]
    assert lost(ledger, run_id) == ["WorkerHung"]
