"""The one Celery app: what must stand in its settings, and why nothing else may make an app."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from celery import Celery

from orchestrator.messages.app import create_app
from orchestrator.settings.model import Settings
from orchestrator.settings.pools import PoolSettings

ROOT = Path(__file__).parents[3]


@pytest.fixture
def app() -> Celery:
    pools = {"cpu": PoolSettings(), "gpu": PoolSettings(queue="cuda")}
    return create_app(Settings(pools=pools, visibility_timeout_s=90_000), "unix:///run/v.sock?db=2")


def test_no_result_is_kept_and_everything_is_json(app: Celery) -> None:
    assert app.conf.task_ignore_result is True
    assert app.conf.task_store_errors_even_if_ignored is False
    assert app.conf.result_backend is None
    assert app.conf.task_serializer == app.conf.event_serializer == "json"
    assert app.conf.accept_content == ["json"]


def test_the_ledger_owns_recovery_so_messages_are_acknowledged_early(app: Celery) -> None:
    assert app.conf.task_acks_late is False
    assert app.conf.task_reject_on_worker_lost in (None, False)
    assert app.conf.worker_cancel_long_running_tasks_on_connection_loss is False


def test_a_worker_takes_no_more_than_it_can_run(app: Celery) -> None:
    assert app.conf.worker_prefetch_multiplier == 1
    assert app.conf.worker_disable_prefetch is True


def test_every_process_has_the_same_long_visibility_timeout_and_live_sockets(app: Celery) -> None:
    options = app.conf.broker_transport_options
    assert options == {
        "visibility_timeout": 90_000,
        "socket_timeout": 30,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 25,
        "queue_order_strategy": "priority",
        "global_keyprefix": "",
    }
    default = create_app(Settings(), "redis://localhost:1/0").conf.broker_transport_options[
        "visibility_timeout"
    ]
    assert default >= 86_400


def test_priorities_and_queues_are_those_of_the_pools(app: Celery) -> None:
    assert app.conf.task_default_priority == 5
    assert app.conf.task_inherit_parent_priority is False
    assert app.conf.task_default_queue == "orc.cpu"
    assert sorted(queue.name for queue in app.conf.task_queues) == ["cuda", "orc.cpu"]


def test_events_are_on_for_flower_unless_switched_off(app: Celery) -> None:
    assert app.conf.worker_send_task_events is True
    assert app.conf.task_send_sent_event is False
    assert (
        create_app(Settings(celery_events=False), "redis://h/0").conf.worker_send_task_events
        is False
    )


def test_times_are_utc(app: Celery) -> None:
    assert (app.conf.timezone, app.conf.enable_utc) == ("UTC", True)


def test_the_broker_is_named_as_celery_wants_it(app: Celery) -> None:
    assert app.conf.broker_url == "redis+socket:///run/v.sock?virtual_host=2"


def test_making_an_app_connects_to_nothing_and_takes_over_nothing() -> None:
    from celery import current_app

    before = current_app._get_current_object()

    create_app(Settings(), "redis://192.0.2.1:1/0")

    assert current_app._get_current_object() is before


def test_nobody_else_makes_an_app() -> None:
    # A process with other options sweeps unacked messages by a visibility timeout of its own.
    made = re.compile(r"(?<![\w.])(?:Celery|PrivateApp)\(")
    files = [
        path for package in ("orchestrator", "workers") for path in (ROOT / package).rglob("*.py")
    ]

    # user_apps.py: the stand-in for the user's own app, which sends nothing.
    assert sorted(path.name for path in files if made.search(path.read_text())) == [
        "app.py",
        "user_apps.py",
    ]
