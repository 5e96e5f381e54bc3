"""Messages are lost, doubled, reordered and overdue: each step succeeds once all the same."""

from __future__ import annotations

import random
import threading
import time

import pytest
from kombu.transport.redis import Channel

from orchestrator.messages.queues import queue_keys
from orchestrator.record.run import RunRecord
from orchestrator.repair.messages import SETTLED_S
from tests.support.site.site import Site

WAITING = """
    @step
    def hold():
        note("began")
        wait_for("go")

    @pipeline
    def holding():
        hold()
"""
PLAIN = """
    @step
    def plain():
        return 1

    @pipeline
    def one():
        plain()
"""
LAYERED = """
    import random

    @step
    def work(number, *values):
        time.sleep(0.02)
        return number + sum(values) % 1000

    @pipeline
    def layered(seed: int):
        choose = random.Random(seed)
        before = []
        for layer in range(8):
            before = [
                work.options(name=f"work-{layer}-{place}")(place, *choose.sample(before, min(len(before), 2)))
                for place in range(5)
            ]
"""


def assert_each_ran_once(record: RunRecord) -> None:
    assert record.state == "succeeded"
    assert {name: len(step.attempts) for name, step in record.steps.items()} == dict.fromkeys(
        record.steps, 1
    )


def test_a_message_that_is_removed_from_an_empty_queue_is_sent_again(site: Site) -> None:
    site.at_work(slots=1)
    busy = site.submit(WAITING)
    busy.wait_for_note("began")
    run = site.submit(PLAIN)

    assert site.drop_messages() == 1
    run.wait(lambda _: site.messages())
    assert len(site.messages()) == 1
    busy.note("go")

    assert_each_ran_once(
        run.ended(
            [("message.lost", "plain", f"^queue {site.queue} is empty, and no worker has begun")]
        )
    )
    assert busy.ended().state == "succeeded"


def test_a_message_that_is_removed_from_among_others_is_sent_again(site: Site) -> None:
    site.at_work(slots=1)
    busy = site.submit(WAITING)
    busy.wait_for_note("began")
    run = site.submit(PLAIN)
    site.drop_messages()
    removed_at = time.monotonic()
    run.wait(lambda _: time.monotonic() > removed_at + SETTLED_S)
    younger = site.submit(PLAIN)

    run.wait(lambda _: run.events("message.lost"))
    busy.note("go")

    found = (
        rf"^queue {site.queue} holds younger messages only, and no worker has begun for 1\.\d s$"
    )
    assert_each_ran_once(run.ended([("message.lost", "plain", found)]))
    assert_each_ran_once(younger.ended())
    assert busy.ended().state == "succeeded"


def test_queues_that_are_deleted_in_mid_run_cost_time_and_no_more(site: Site) -> None:
    site.add_workers(2)
    site.coordinate()
    run = site.submit("""
        @step
        def work(number):
            time.sleep(0.1)
            return number

        @step
        def total(*numbers):
            return sum(numbers)

        @pipeline
        def wide():
            total(*[work(number) for number in range(30)])
    """)
    run.wait(lambda record: sum(step.state == "succeeded" for step in record.steps.values()) >= 4)

    dropped = site.drop_messages()
    site.client.delete(f"_kombu.binding.{site.queue}")

    record = run.ended(
        lambda repairs: [repair.kind for repair in repairs] == ["message.lost"] * dropped
    )
    assert dropped > 10
    assert_each_ran_once(record)
    assert site.value(record, "total") == sum(range(30))


DOUBLING_APP = """
import pathlib
from celery.signals import task_received
from kombu.transport.redis import Channel
from orchestrator.worker.app import app

RECEIVED = pathlib.Path(__file__).with_name("received")
put = Channel._put

def put_twice(self: Channel, queue, message, **options):
    put(self, queue, message, **options)
    put(self, queue, message, **options)

Channel._put = put_twice

@task_received.connect
def received(request=None, **_):
    with RECEIVED.open("a") as file:
        file.write(f"{request.kwargs['step']}\\n")
"""


def test_messages_that_are_all_delivered_twice_run_each_step_once(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    (site.folder / "doubling_app.py").write_text(DOUBLING_APP)
    put = Channel._put

    def put_twice(self: Channel, queue: str, message: object, **options: object) -> None:
        put(self, queue, message, **options)
        put(self, queue, message, **options)

    monkeypatch.setattr(Channel, "_put", put_twice)
    site.add_workers(2, app="doubling_app")
    site.coordinate()
    run = site.submit(LAYERED, seed=1)

    assert_each_ran_once(run.ended())
    run.wait(lambda _: not site.messages())
    received = (site.folder / "received").read_text().split()
    assert all(received.count(step) >= 2 for step in run.pipeline.steps)
    assert_each_ran_once(run.check())


SHUFFLE = """
math.randomseed(tonumber(ARGV[1]))
for _, key in ipairs(KEYS) do
  local list = redis.call('LRANGE', key, 0, -1)
  for i = #list, 2, -1 do
    local j = math.random(i)
    list[i], list[j] = list[j], list[i]
  end
  if #list > 1 then
    redis.call('DEL', key)
    redis.call('RPUSH', key, unpack(list))
  end
end
"""


def test_messages_that_are_reordered_again_and_again_run_each_step_once(site: Site) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    choose, is_over = random.Random(seed), threading.Event()
    keys = queue_keys(site.queue)

    def shuffle() -> None:
        while not is_over.wait(0.01):
            site.client.eval(SHUFFLE, len(keys), *keys, choose.randrange(10**6))

    site.coordinate()
    run = site.submit(LAYERED, seed=2)
    shuffling = threading.Thread(target=shuffle)
    shuffling.start()
    try:
        site.add_workers(2)
        # A list whose order means nothing may make a message look lost: then it is sent again, and
        # dropped.
        record = run.ended(lambda repairs: all(repair.kind == "message.lost" for repair in repairs))
    finally:
        is_over.set()
        shuffling.join()

    assert_each_ran_once(record)


IMPATIENT_APP = """
from orchestrator.worker.app import app

app.conf.broker_transport_options = {**app.conf.broker_transport_options, "visibility_timeout": 1}
"""


def test_a_step_that_outlasts_the_visibility_timeout_runs_once(site: Site) -> None:
    (site.folder / "impatient_app.py").write_text(IMPATIENT_APP)
    site.at_work(app="impatient_app")
    run = site.submit(WAITING)
    run.wait_for_note("began")
    began = time.monotonic()
    run.wait(lambda _: time.monotonic() > began + 1.5)
    site.add_worker(app="impatient_app")  # one that starts looks at once for what is overdue
    run.wait(lambda _: time.monotonic() > began + 4)
    assert not site.messages()
    run.note("go")

    assert_each_ran_once(run.ended())
