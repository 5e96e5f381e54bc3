"""Flower, with what version 2.2 has no switch for: metrics that are bounded and ask for the
password, workers at once.

Run as `python -P -m orchestrator.worker.flower FLOWER-OPTIONS`. All that is replaced in Flower is
replaced by `install`; a test asserts that Flower has each of it.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import flower.app
import flower.command
import flower.events
import flower.urls
from celery.states import REJECTED
from flower.views.monitor import Metrics
from tornado.options import options as tornado_options
from tornado.web import authenticated

from orchestrator.log_format import set_up_logging
from orchestrator.messages.app import run_command
from orchestrator.secrecy import receive
from orchestrator.settings.sources import current_settings

MOST_NAMES = 500
OTHER = "other"
LOOK_AGAIN_S = 5.0
TASK_EVENTS = {
    f"task-{what}"
    for what in (
        "sent",
        "received",
        "started",
        "succeeded",
        "failed",
        "rejected",
        "revoked",
        "retried",
    )
}


class BoundedNames:
    """The first MOST_NAMES names, without the index of a step: `fit[0.5]` is `fit[]`. Any further
    one is `other`."""

    def __init__(self, most: int = MOST_NAMES) -> None:
        self._most = most
        self._known: set[str] = set()

    def __call__(self, name: str) -> str:
        name = re.sub(r"\[[^\[\]]*\]", "[]", name)
        if name not in self._known:
            if len(self._known) >= self._most:
                return OTHER
            self._known.add(name)
        return name


class BoundedMetrics(flower.events.PrometheusMetrics):  # type: ignore[misc]
    """Flower's metrics, each label of which has a bounded number of values."""

    def __init__(self) -> None:
        super().__init__()
        self._tasks, self._workers = BoundedNames(), BoundedNames()

    def observe_task(self, worker: str, event: Mapping[str, Any], task: Any) -> None:
        kind = event["type"] if event["type"] in TASK_EVENTS else f"task-{OTHER}"
        name = self._tasks(str(event.get("name") or task.name or ""))
        super().observe_task(self._workers(worker), {**event, "type": kind, "name": name}, task)

    def observe_worker(self, worker: str, event: Mapping[str, Any]) -> None:
        super().observe_worker(self._workers(worker), event)


class RejectingState(flower.events.EventsState):  # type: ignore[misc]
    """Flower's picture of tasks, in which one whose message was rejected ends so. Celery's merge of
    events takes a rejection for what comes before a start; ours come after it, when a child has
    asked the ledger.
    """

    def event(self, event: Mapping[str, Any]) -> None:
        super().event(event)
        if event["type"] == "task-rejected" and (task := self.tasks.get(event.get("uuid"))):
            task.state = REJECTED
            self.search_engine.upsert(task)


class GuardedMetricsPage(Metrics):  # type: ignore[misc]
    """The page for Prometheus, which asks for user and password as all others do."""

    @authenticated
    async def get(self) -> None:
        await super().get()


class WatchingEvents(flower.events.Events):  # type: ignore[misc]
    """Flower's events, which show each worker that is there."""

    on_worker: Callable[[str, bool], None] | None = None

    def on_event(self, event: Mapping[str, Any]) -> None:
        super().on_event(event)
        if self.on_worker and event.get("type") in ("worker-online", "worker-heartbeat"):
            self.io_loop.add_callback(
                self.on_worker, str(event.get("hostname")), event["type"] == "worker-online"
            )


class WatchingFlower(flower.app.Flower):  # type: ignore[misc]
    """Flower, which looks at a worker as soon as it hears of it. Its own shows none before somebody
    asks it to."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._looked_at: dict[str, float] = {}
        self.events.on_worker = self._look_at

    def _look_at(self, worker: str, is_new: bool) -> None:
        now = time.monotonic()
        answered = self.inspector.workers.get(
            worker, {}
        ).keys()  # a worker that is busy answers a question or two late
        is_known = answered >= set(self.inspector.methods_to_inspect(None)) and not is_new
        if is_known or now - self._looked_at.get(worker, -LOOK_AGAIN_S) < LOOK_AGAIN_S:
            return
        if len(self._looked_at) > MOST_NAMES:
            self._looked_at.clear()
        self._looked_at[worker] = now
        self.update_workers(worker)


def install() -> None:
    """Replace what `orchestrator flower` has of its own; before Flower is made."""
    flower.events.PrometheusMetrics = BoundedMetrics
    flower.events.EventsState = RejectingState
    flower.app.Events = WatchingEvents
    flower.command.Flower = WatchingFlower
    handlers: list[Any] = flower.urls.handlers
    handlers[:] = [
        (handler[0], GuardedMetricsPage) if _is_metrics(handler) else handler
        for handler in handlers
    ]


def _is_metrics(handler: Any) -> bool:
    return isinstance(handler, tuple) and handler[1] is Metrics


def main(arguments: Sequence[str]) -> NoReturn:
    """Serve Flower until it is told to end, and exit with its code. A `flowerconfig.py` of the
    user's is not read."""
    options = receive(arguments)

    from orchestrator.worker.app import app

    install()
    if current_settings().log_format == "json":
        set_up_logging("json", current_settings().log_level)
    settings = current_settings()
    if settings.flower_password:
        os.environ.pop("FLOWER_BASIC_AUTH", None)  # would win
        tornado_options.basic_auth = [
            f"{settings.flower_user}:{settings.flower_password.get_secret_value()}"
        ]
    run_command(app, flower.command.flower, [*options, f"--conf={os.devnull}"])


if __name__ == "__main__":
    main(sys.argv[1:])
