"""Why a step is where it is, in sentences and as facts."""

from __future__ import annotations

import re

import pytest

from orchestrator.attempt_id import AttemptId
from orchestrator.ledger.presence import WorkerCard, announce_coordinator, announce_worker, own_card
from orchestrator.ledger.states import Outcome
from orchestrator.ledger.values import BackOff, OwnedAttempt
from orchestrator.messages.queues import queue_keys
from orchestrator.record.run import read_record
from orchestrator.runs import reasons
from orchestrator.runs.one_step import read_around
from orchestrator.runs.reasons import NAMED_STEPS, Explanation, brief, explain
from orchestrator.runs.submission import submit
from orchestrator.runs.surroundings import look_around
from orchestrator.settings.model import Settings
from tests.support.runs import begin, graph

NET = {"a": "", "b": "a", "c": "a", "d": "b c", "e": "d a", "gpu": ""}


@pytest.fixture
def run_id(ledger, app, chosen) -> str:
    """A run of NET with `gpu` on pool gpu, `c` with a timeout and a queue timeout, and nothing
    begun."""
    options = {
        "gpu": {"pool": "gpu"},
        "c": {"timeout": 60.0, "queue_timeout": 300.0},
        "b": {"priority": 2},
    }
    return submit(graph(NET, options=options).plan(), ledger, app, chosen)


@pytest.fixture
def why(ledger, chosen, run_id):
    def say(step: str, settings: Settings | None = None) -> Explanation:
        around = look_around(ledger, run_id)
        told = explain(ledger, settings or chosen, read_record(ledger, run_id), step, around)
        little = read_around(ledger, run_id, step, NAMED_STEPS)
        assert explain(ledger, settings or chosen, little, step, around) == told
        return told

    return say


@pytest.fixture
def short(ledger, run_id):
    return lambda step: brief(read_record(ledger, run_id), step, look_around(ledger, run_id))


def text(told: Explanation) -> str:
    """Return the sentences, with every time and span as T."""
    joined = " ".join(told.sentences)
    joined = re.sub(r"\d\d:\d\d:\d\d\.\d{3}", "T", joined)
    return re.sub(r"\d+\.\d+ s|\d+ min \d+ s", "T", joined)


def serve(ledger, worker: str, queue: str, slots: int) -> None:
    announce_worker(
        ledger.client,
        ledger.prefix,
        WorkerCard(worker, (queue,), slots, "prefork", "host", 1, "beef"),
    )


def test_a_step_that_was_put_back_says_why_and_when_it_is_due(ledger, run_id, why, short) -> None:
    detail = {"reason": "host h cannot write to the store /data", "host": "h"}
    ledger.put_back(
        AttemptId(run_id, "a", 1), detail, BackOff(60.0, 60.0), token=begin(ledger, run_id, "a")
    )

    told = why("a")

    assert text(told).startswith(
        "Attempt 1 of a was put back, which counts against nothing (host h cannot write to the"
        " store /data). Attempt 2 is due at T, in T."
    )
    assert told.facts["put_back"] == detail["reason"]
    assert short("a").startswith("put back (host h cannot write to the store /data), retry at ")


def test_a_waiting_step_names_its_upstreams_and_what_stands_behind_them(
    ledger, chosen, run_id, why, short
) -> None:
    told = why("e")
    assert text(told) == "e waits for d (waiting) and a (queued: no worker serves pool cpu)."
    assert told.facts == {"waits_for": {"d": "waiting", "a": "queued"}, "behind": {}}

    ledger.commit(AttemptId(run_id, "a", 1), begin(ledger, run_id, "a"), "w", Outcome.SUCCEEDED)
    begin(ledger, run_id, "b", worker="w1")

    told = why("e")
    assert (
        text(told) == "e waits for d (waiting). "
        "That in turn waits for b (running on w1 since T, T) and c (queued: no worker serves pool cpu)."
    )
    assert told.facts == {"waits_for": {"d": "waiting"}, "behind": {"b": "running", "c": "queued"}}
    assert (short("e"), short("d")) == ("waits for d", "waits for b and c")


def test_a_trigger_rule_is_named(ledger, app, chosen) -> None:
    run_id = submit(graph({"a": "", "b": "a"}, {"b": "all_done"}).plan(), ledger, app, chosen)

    told = explain(ledger, chosen, read_record(ledger, run_id), "b", look_around(ledger, run_id))

    assert told.sentences[-1] == "Its trigger rule is all_done."


def test_a_queued_step_tells_who_could_run_it_and_how_many_are_ahead(
    ledger, app, chosen, run_id, why, short
) -> None:
    queue = chosen.queue_of("gpu")
    told = why("gpu")
    assert (
        text(told) == "gpu is queued for pool gpu since T (T). "
        f"No worker serves that pool (queue {queue}): orchestrator worker --pool gpu starts one. "
        "Its message is the next one in the queue."
    )
    assert short("gpu") == "waiting: no worker serves pool gpu"

    serve(ledger, "w1", queue, 2)
    serve(ledger, "w2", queue, 1)
    assert "2 workers serve that pool: 3 slots, none busy." in text(why("gpu"))
    assert short("gpu") == "3 slots, none busy"
    others = submit(graph({f"s{i}": "" for i in range(3)},
    options={f"s{i}": {"pool": "gpu"} for i in range(3)}).plan(),
                    ledger, app, chosen)  # fmt: skip
    begin(ledger, others, "s0", worker="w1")
    begin(ledger, others, "s1", worker="w1")
    assert "3 slots, 2 busy." in text(why("gpu"))
    begin(ledger, others, "s2", worker="w2")
    told = why("gpu")
    assert "3 slots, all busy." in text(told)
    assert {name: told.facts[name] for name in ("workers", "slots", "busy", "messages_ahead")} == {
        "workers": ["w1", "w2"], "slots": 3, "busy": 3, "messages_ahead": 0
    }  # fmt: skip

    behind = explain(ledger, chosen, read_record(ledger, others), "s2", look_around(ledger, others))
    assert behind.facts.keys() >= {"worker"}  # it runs
    later = submit(graph({"s": "", "t": ""}, options={"s": {"pool": "gpu"},
    "t": {"pool": "gpu"}}).plan(),
                   ledger, app, chosen)  # fmt: skip
    told = explain(ledger, chosen, read_record(ledger, later), "t", look_around(ledger, later))
    assert "5 messages are ahead of it in the queue." in told.sentences


def test_a_queued_step_whose_message_is_gone_says_so_and_when_it_is_sent_again(
    ledger, chosen, why, run_id
) -> None:
    ledger.client.delete(*queue_keys(chosen.queue_of("gpu")))

    told = why("gpu", chosen.model_copy(update={"message_lost_after_s": 7.0}))
    assert told.facts["messages_ahead"] is None
    assert (
        told.sentences[-1]
        == "Its message is not in the queue: a worker is just taking it, or it is lost; once it has"
        " been missing for 7 s it is sent again, but no coordinator is there to do so:"
        " orchestrator serve starts one."
    )

    announce_coordinator(ledger.client, ledger.prefix, own_card(), run_id)
    assert why("gpu").sentences[-1].endswith("once it has been missing for 5 s it is sent again.")


def test_a_queued_step_tells_how_long_it_may_still_wait(ledger, run_id, why) -> None:
    ledger.commit(AttemptId(run_id, "a", 1), begin(ledger, run_id, "a"), "w", Outcome.SUCCEEDED)

    told = why("c")

    assert told.sentences[-1].startswith(
        "It fails if it waits longer than its queue_timeout of 300 s, in 5 min 0 s"
    )
    assert "waits_until" in told.facts


def test_a_retrying_step_tells_when_it_is_due_and_whether_anybody_is_there_to_send_it(
    ledger, run_id, why, short
) -> None:
    token = begin(ledger, run_id, "a")
    error = {"type": "builtins:OSError", "message": "no disk\nmore", "traceback": ""}
    ledger.commit(
        AttemptId(run_id, "a", 1),
        token,
        "w",
        Outcome.FAILED,
        detail={"error": error},
        retry_in_s=90.0,
    )

    told = why("a")
    assert (
        text(told) == "Attempt 1 of a failed (OSError: no disk). Attempt 2 is due at T, in T. "
        "No coordinator is there to send it: orchestrator serve starts one."
    )
    assert 80 < told.facts["due_in_s"] <= 90
    assert short("a").endswith(
        "; no coordinator is there to send it: orchestrator serve starts one"
    )

    announce_coordinator(ledger.client, ledger.prefix, own_card(), "another-run")
    assert "No coordinator" in text(why("a"))
    announce_coordinator(ledger.client, ledger.prefix, own_card())
    assert text(why("a")).endswith("is due at T, in T.")
    assert re.fullmatch(r"retry at \S+Z", short("a"))


def test_a_running_step_tells_its_worker_its_timeout_and_its_lease(ledger, run_id, why) -> None:
    ledger.commit(AttemptId(run_id, "a", 1), begin(ledger, run_id, "a"), "w", Outcome.SUCCEEDED)
    ledger.claim(AttemptId(run_id, "c", 1), "x", "w2", lease_s=60.0)
    serve(ledger, "w2", "any", 1)

    told = why("c")

    assert (
        text(told) == "c runs on w2 since T (T). Its timeout of 60 s leaves it T. "
        "Its lease holds for T, and is renewed while its worker lives."
    )
    assert told.facts["worker"] == "w2"
    assert 50 < told.facts["timeout_left_s"] <= 60
    assert 50 < told.facts["lease_left_s"] <= 60


def test_a_running_step_whose_worker_is_silent_says_what_comes_next(ledger, run_id, why) -> None:
    ledger.claim(AttemptId(run_id, "a", 1), "x", "w2", lease_s=0.0)

    assert (
        text(why("a"))
        == "a runs on w2 since T (T). Its lease ran out T ago: it is given to another worker, but"
        " no coordinator is there to do so: orchestrator serve starts one. Worker w2 has given"
        " no sign of life lately."
    )


def test_steps_that_have_ended_tell_how_and_why(ledger, run_id, why) -> None:
    token = begin(ledger, run_id, "a")
    lost = {
        "error": {"type": "WorkerLost", "message": "killed by signal 9", "traceback": ""},
        "found": "x",
    }
    ledger.report_lost(AttemptId(run_id, "a", 1), lost, token=token)
    ledger.commit(
        AttemptId(run_id, "a", 2),
        begin(ledger, run_id, "a", 2, worker="w2"),
        "w2",
        Outcome.SUCCEEDED,
    )
    error = {"type": "ValueError", "message": "bad", "traceback": ""}
    ledger.commit(
        AttemptId(run_id, "b", 1),
        begin(ledger, run_id, "b"),
        "w",
        Outcome.FAILED,
        detail={"error": error},
    )
    ledger.claim(AttemptId(run_id, "c", 1), "i.7.x", "w")
    ledger.cancel_steps(run_id, ["c"], "not wanted")
    ledger.report_stopped(
        OwnedAttempt(AttemptId(run_id, "c", 1), "w i.7."),
        {"how": "it ended when asked", "after_s": 0.25},
    )
    ledger.cancel(run_id, "enough")

    assert (
        text(why("a"))
        == "a succeeded on w2 after T. Attempt 1 was lost (WorkerLost: killed by signal 9)."
    )
    assert text(why("b")) == "b failed: attempt 1 failed (ValueError: bad)."
    assert (
        text(why("c"))
        == "c was cancelled: not wanted. Its attempt was stopped after T: it ended when asked."
    )
    assert text(why("d")) == "d did not run because b failed: it failed (ValueError: bad)."
    assert text(why("gpu")) == "gpu was cancelled: enough."
    assert why("d").facts == {"because": "b"}
    assert why("c").facts == {"reason": "not wanted", "stopped": "it ended when asked"}


ENDINGS = ("gone", "gone.", "Is it mounted?", "no!", "and more…", "two. Sentences.\n")


@pytest.mark.parametrize("said", ENDINGS)
def test_what_others_say_is_ended_as_a_sentence_of_ours_once(
    ledger, chosen, run_id, why, short, said: str
) -> None:
    queue, error = chosen.queue_of("gpu"), {"type": "ValueError", "message": said, "traceback": ""}
    card = WorkerCard("w1", (), 1, "prefork", "host", 1, fault=said.strip(), paused_queues=(queue,))
    announce_worker(ledger.client, ledger.prefix, card)
    told = [why("gpu"), why("d")]
    begin(ledger, run_id, "gpu", worker="w1")
    told += [why("gpu")]
    ledger.put_back(
        AttemptId(run_id, "a", 1),
        {"reason": said},
        BackOff(60.0, 60.0),
        token=begin(ledger, run_id, "a"),
    )
    told += [why("a"), why("d")]
    ledger.cancel_steps(run_id, ["a"], said)
    ledger.claim(AttemptId(run_id, "gpu", 1), "i.7.x", "w")
    ledger.commit(
        AttemptId(run_id, "gpu", 1),
        ledger.token(run_id, "gpu"),
        "w1",
        Outcome.FAILED,
        detail={"error": error},
    )
    told += [why(step) for step in ("a", "b", "gpu")]
    ledger.report_stopped(
        OwnedAttempt(AttemptId(run_id, "a", 1), "w i.7."), {"how": said, "after_s": 0.25}
    )
    told += [why("a")]

    for sentence in (sentence for each in told for sentence in each.sentences):
        assert sentence.endswith((".", "?", "!", "…")), sentence
        assert not re.search(r"[.?!…:;,][.;,:]", sentence), sentence


def test_many_steps_are_counted_rather_than_listed(ledger, app, chosen) -> None:
    run_id = submit(graph({**{f"s{i}": "" for i in range(9)},
    "j": [f"s{i}" for i in range(9)]}).plan(),
                    ledger, app, chosen)  # fmt: skip

    told = brief(read_record(ledger, run_id), "j", look_around(ledger, run_id))

    assert told == "waits for s0, s1, s2, s3, s4 and 4 more"


def test_a_cancelled_step_whose_attempt_is_still_being_stopped_says_so(ledger, run_id, why) -> None:
    ledger.claim(AttemptId(run_id, "a", 1), "i.7.x", "w")
    ledger.cancel(run_id, "enough")

    told = why("a")

    assert text(told) == "a was cancelled: enough. Its attempt 1 is still being stopped by w."
    assert told.facts["stopping"] == "w"


def test_a_running_step_tells_that_its_worker_drains(ledger, run_id, why) -> None:
    begin(ledger, run_id, "a", worker="w2")
    announce_worker(ledger.client, ledger.prefix, WorkerCard("w2", (), 1, "prefork", "host", 1))

    assert text(why("a")).endswith("Its worker drains: it ends with the steps that it runs.")


def test_of_ten_thousand_upstreams_only_those_that_are_named_are_looked_at(
    ledger, app, chosen, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = {f"head{number}": "" for number in range(100)}
    wide = {f"w{number}": f"head{number % 100}" for number in range(10_000)}
    run_id = submit(graph({**heads, **wide, "end": list(wide)}).plan(), ledger, app, chosen)
    looked_at = []

    def counting(record, name, around) -> str:
        looked_at.append(name)
        return brief(record, name, around)

    monkeypatch.setattr(reasons, "brief", counting)
    told = explain(ledger, chosen, read_record(ledger, run_id), "end", look_around(ledger, run_id))

    assert told.sentences[0].startswith("end waits for w0 (waiting), w1 (waiting)")
    assert told.sentences[0].endswith("and 9,995 more.")
    assert told.sentences[1].startswith("Those in turn wait for head0 (queued: no worker serves")
    assert told.sentences[1].endswith("and 95 more.")
    assert len(looked_at) <= 10
    assert len(told.facts["waits_for"]) == 10_000
