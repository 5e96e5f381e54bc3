"""Whatever sending raises: a change that is in the ledger is answered, and coordinators send what
is missing."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest
from celery import Celery

from orchestrator.attempt_id import AttemptId
from orchestrator.ledger.states import Outcome
from orchestrator.ledger.values import Chain, Link
from orchestrator.messages.app import create_app
from orchestrator.messages.queues import list_key
from orchestrator.runs.resumption import plan_resume, resume
from orchestrator.runs.stored import read_run
from orchestrator.runs.submission import submit
from orchestrator.runs.visiting import Visitor
from orchestrator.settings.model import Settings
from tests.support.runs import begin, graph, states_of
from tests.support.sending import send_chains


@contextlib.contextmanager
def cut_at_a_publish(url: str) -> Iterator[str]:
    """The URL of a way to the server that breaks whenever something is put into a list."""
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as ends:

        def carry(near: socket.socket, far: socket.socket, is_to_server: bool) -> None:
            with contextlib.suppress(OSError):
                while (data := near.recv(65536)) and not (is_to_server and b"LPUSH" in data):
                    far.sendall(data)
            for end in (near, far):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    near = ends.enter_context(listener.accept()[0])
                    far = ends.enter_context(socket.socket(socket.AF_UNIX))
                    far.connect(urlsplit(url).path)
                    for pair in ((near, far, True), (far, near, False)):
                        threading.Thread(target=carry, args=pair, daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
        listener.shutdown(socket.SHUT_RDWR)


FAULTS = [
    "nobody listens",
    "no such host",
    "the connection is cut at a publish",
    "the pool is closed",
    "the pool is broken",
    "the queue is not a list",
]


@pytest.fixture(params=FAULTS)
def broken(
    request: pytest.FixtureRequest, chosen: Settings, shared_redis_url: str
) -> Iterator[Celery]:
    """A Celery app through which nothing can be sent."""
    with contextlib.ExitStack() as stack:
        url, fault = shared_redis_url, request.param
        if fault == "nobody listens":
            url = "redis://localhost:1/0"
        elif fault == "no such host":
            url = "redis://there-is-no-host.invalid/0"
        elif fault == "the connection is cut at a publish":
            url = stack.enter_context(cut_at_a_publish(url))
        app = create_app(chosen, url)
        stack.callback(app.close)
        app.conf.broker_transport_options |= {"max_retries": 0}
        app.conf.broker_connection_max_retries = 0
        app.conf.task_publish_retry_policy = {"max_retries": 0}
        if fault == "the pool is closed":
            app.pool.force_close_all()
        elif fault == "the pool is broken":
            app.conf.broker_transport_options |= {"health_check_interval": "often"}
        elif fault == "the queue is not a list":
            with app.connection_for_write() as connection:
                connection.default_channel.client.set(list_key(chosen.queue_of(), 3), "text")
        yield app


def test_nothing_that_a_send_raises_reaches_who_sends(broken, ledger, chosen, caplog) -> None:
    queue = chosen.queue_of()
    submit(graph({"a": "", "b": ""}).plan(), ledger, broken, chosen, "r")
    chains = [Chain("p", (Link(step, 1, queue, 5, 0),)) for step in "ab"]

    assert not send_chains(broken, "r", chains)
    assert not send_chains(broken, "r", chains[:1])
    assert not send_chains(broken, "no such run", chains)

    assert "run r goes on, but its messages could not be sent" in caplog.text


@pytest.mark.parametrize(
    "shape", [{"a": ""}, {"a": "", "b": "", "c": ""}], ids=["one message", "a batch"]
)
def test_a_run_that_is_in_the_ledger_is_answered_with_its_id(broken, ledger, chosen, shape) -> None:
    assert submit(graph(shape).plan(), ledger, broken, chosen, "r") == "r"

    assert set(states_of(ledger, "r").values()) == {"queued"}
    assert ledger.active_runs() == ["r"]


def test_a_resume_a_cancel_and_a_round_hold_to_the_same_rule(broken, ledger, chosen, app) -> None:
    plan = graph({"a": "", "b": "a", "c": "", "d": "c"}, {"d": "always"}).plan()
    submit(plan, ledger, app, chosen, "r")
    for step in "ac":
        ledger.commit(
            AttemptId("r", step, 1), begin(ledger, "r", step, 1), "w", Outcome.FAILED, retry_in_s=0
        )

    Visitor(ledger, broken, chosen).visit("r")  # the retries are due
    assert states_of(ledger, "r")["a"] == states_of(ledger, "r")["c"] == "queued"

    count, chains = ledger.cancel_steps("r", ["a", "c"], "enough")
    assert (count, send_chains(broken, "r", chains)) == (2, False)
    assert states_of(ledger, "r")["d"] == "queued"

    ledger.cancel("r", "enough")
    resume(ledger, broken, plan_resume(read_run(ledger, "r"), plan, chosen))
    assert states_of(ledger, "r") == {"a": "queued", "b": "waiting", "c": "queued", "d": "waiting"}


def test_coordinators_send_what_could_not_be_sent(
    ledger, chosen, app, shared_redis_url, messages_in, wait_until
) -> None:
    chosen = chosen.model_copy(update={"message_lost_after_s": 0.1, "poll_interval_s": 0.05})
    with cut_at_a_publish(shared_redis_url) as url, create_app(chosen, url) as cut:
        submit(graph({"a": "", "b": ""}).plan(), ledger, cut, chosen, "r")
        assert not messages_in(chosen.queue_of())

    visit: Callable[..., float] = Visitor(ledger, app, chosen).visit
    wait_until(lambda: visit("r") and len(messages_in(chosen.queue_of())) == 2)
