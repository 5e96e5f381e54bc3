"""Messages are hints: doubled, early, late and unknown ones are dropped, and every step runs
once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from orchestrator.ledger.values import Chain, Link, Ready
from orchestrator.local.worker import LocalWorker
from orchestrator.messages.dispatch import Dispatcher
from tests.support.fixtures import PipelineFrom, WaitUntil
from tests.support.worker_runs import Runs

COUNTED = """
    import pathlib, time

    @step
    def count(folder, name, *values):
        with open(pathlib.Path(folder, "ran"), "a") as ran:
            ran.write(name + "\\n")
        while name == "a" and not pathlib.Path(folder, "gate").exists():
            time.sleep(0.01)

    @pipeline(name="p")
    def counted(folder: str):
        a = count.options(name="a")(folder, "a")
        b = count.options(name="b")(folder, "b", a)
        c = count.options(name="c")(folder, "c", b)
        d = count.options(name="d")(folder, "d", b)
        count.options(name="e")(folder, "e", c, d)
"""


class Messages:
    """Sends messages of a run by hand, and tells from Celery's events which were taken."""

    def __init__(
        self, runs: Runs, celery_events: list[dict[str, Any]], wait_until: WaitUntil
    ) -> None:
        self._runs, self._events, self._wait_until = runs, celery_events, wait_until

    def send(self, run_id: str, *steps: str, attempt: int = 1) -> None:
        queue = self._runs.settings.queue_of()
        links = tuple(Link(step, attempt, queue, 5, 0) for step in steps)
        Dispatcher(self._runs.app, self._runs.ledger).send(run_id, Ready([Chain("p", links)]))

    def of(self, run_id: str, kind: str) -> list[str]:
        named = {
            event["uuid"]: event["name"]
            for event in self._events
            if run_id in (event.get("kwargs") or "")
        }
        ids = [event["uuid"] for event in self._events if event["type"] == kind]
        return sorted(named[uuid] for uuid in ids if uuid in named)

    def wait_for_ends(
        self, run_id: str, succeeded: int = 0, rejected: int = 0
    ) -> tuple[list[str], list[str]]:
        """What has run is a success for Celery; a message that ran nothing is rejected, and no
        failure."""
        self._wait_until(lambda: len(self.of(run_id, "task-succeeded")) >= succeeded)
        self._wait_until(lambda: len(self.of(run_id, "task-rejected")) >= rejected)
        for kind, count in (
            ("task-succeeded", succeeded),
            ("task-rejected", rejected),
            ("task-failed", 0),
        ):
            assert len(self.of(run_id, kind)) == count
        return self.of(run_id, "task-succeeded"), self.of(run_id, "task-rejected")


@pytest.fixture
def messages(runs: Runs, celery_events: list[dict[str, Any]], wait_until: WaitUntil) -> Messages:
    return Messages(runs, celery_events, wait_until)


@pytest.fixture
def counted(runs: Runs, pipeline_from: PipelineFrom, tmp_path: Path) -> str:
    """A run a -> b -> (c, d) -> e, whose a is running and waits for the gate."""
    run_id = runs.submit(pipeline_from(COUNTED, {"folder": str(tmp_path)}))
    runs.wait(run_id, lambda _: (tmp_path / "ran").exists())
    return run_id


@pytest.fixture
def ran(tmp_path: Path) -> Callable[[], list[str]]:
    return lambda: (tmp_path / "ran").read_text().split()


def test_a_doubled_message_is_dropped_and_its_chain_goes_on_once(
    runs: Runs, messages: Messages, counted: str, ran: Callable[[], list[str]], tmp_path: Path
) -> None:
    messages.send(counted, "a", "b")
    messages.send(counted, "a", "b")
    messages.wait_for_ends(counted, rejected=2)

    (tmp_path / "gate").touch()

    assert runs.wait(counted).state == "succeeded"
    assert messages.wait_for_ends(counted, 5, 2) == (
        ["p.a", "p.b", "p.c", "p.d", "p.e"],
        ["p.a", "p.a"],
    )
    assert sorted(ran()) == ["a", "b", "c", "d", "e"]


def test_two_identical_messages_at_once_are_one_attempt(
    runs: Runs, messages: Messages, pipeline_from: PipelineFrom, tmp_path: Path
) -> None:
    """Both wait in the queue behind steps that fill all four children."""
    (tmp_path / "gate").touch()
    run_id = runs.submit(pipeline_from(COUNTED, {"folder": str(tmp_path)}))
    for _ in range(20):
        messages.send(run_id, "a", "b")
        messages.send(run_id, "c")

    assert runs.wait(run_id).state == "succeeded"
    messages.wait_for_ends(run_id, 5, 40)
    assert sorted((tmp_path / "ran").read_text().split()) == ["a", "b", "c", "d", "e"]
    started = [event.step for event in runs.ledger.events(run_id) if event.kind == "step.started"]
    assert sorted(started) == ["a", "b", "c", "d", "e"]


def test_early_messages_are_dropped_and_the_steps_run_in_their_turn(
    runs: Runs, messages: Messages, counted: str, ran: Callable[[], list[str]], tmp_path: Path
) -> None:
    for step in "edcb":
        messages.send(counted, step)
    messages.wait_for_ends(counted, rejected=4)
    assert ran() == ["a"]

    (tmp_path / "gate").touch()

    record = runs.wait(counted)
    assert sorted(ran()) == ["a", "b", "c", "d", "e"]
    assert all(len(step.attempts) == 1 for step in record.steps.values())


def test_late_messages_change_nothing(
    runs: Runs, messages: Messages, counted: str, ran: Callable[[], list[str]], tmp_path: Path
) -> None:
    (tmp_path / "gate").touch()
    runs.wait(counted)
    messages.wait_for_ends(counted, 5)
    told = list(runs.ledger.events(counted))

    messages.send(counted, "a", "b", "c")
    messages.send(counted, "e")
    messages.send(counted, "e", attempt=2)
    messages.wait_for_ends(counted, 5, 3)

    assert sorted(ran()) == ["a", "b", "c", "d", "e"]
    assert list(runs.ledger.events(counted)) == told


def test_messages_of_a_cancelled_run_are_dropped(
    runs: Runs,
    messages: Messages,
    counted: str,
    ran: Callable[[], list[str]],
    wait_until: WaitUntil,
) -> None:
    runs.ledger.cancel(counted, "by the test")
    messages.send(counted, "b")

    wait_until(lambda: messages.of(counted, "task-rejected") == ["p.b"])
    wait_until(lambda: "attempt.stopped" in [event.kind for event in runs.ledger.events(counted)])
    wait_until(lambda: messages.of(counted, "task-revoked") == ["p.a"])
    assert messages.of(counted, "task-failed") == []
    assert ran() == ["a"]


def test_messages_of_unknown_runs_and_steps_are_dropped_and_leave_no_keys(
    runs: Runs, messages: Messages, counted: str, tmp_path: Path, worker: LocalWorker
) -> None:
    unknown = f"unknown-{uuid4().hex}"  # other tests send messages of unknown runs too
    messages.send(unknown, "a", "b")
    messages.send(counted, "no-such-step")

    messages.wait_for_ends(unknown, rejected=1)
    messages.wait_for_ends(counted, rejected=1)

    assert list(runs.ledger.client.scan_iter(f"*{unknown}*")) == []
    assert "Traceback" not in worker.log_tail(5)
    (tmp_path / "gate").touch()
    assert runs.wait(counted).state == "succeeded"
