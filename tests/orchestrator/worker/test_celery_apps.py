"""User code that uses Celery itself, inside a step: always the app of the pool, whatever ran before
in that child."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.definition.loading import load
from orchestrator.definition.pipeline import Pipeline
from orchestrator.local.worker import local_worker
from orchestrator.redis_url import celery_broker_url
from orchestrator.settings.model import Settings
from orchestrator.settings.pools import PoolSettings
from tests.support.worker_runs import Runs

PROJECT = """
from celery import Celery, shared_task

app = Celery("proj{mark}", broker="{url}", backend="cache+memory://")
app.conf.task_default_queue = "{queue}"

@app.task(name="proj.bound")
def bound(x):
    return x

@shared_task(name="proj.shared")
def shared(x):
    return ("{mark}", x)
"""

STEPS = """
from orchestrator import pipeline, step

@step
def imports_nothing(before=None):
    from celery import _state, current_app, current_task
    import os
    return [os.getpid(), current_app.main, _state.default_app.main, bool(current_task)]

@step
def imports_a_project(before=None):
    import proj{mark}
    return proj{mark}.app.main

@step
def makes_an_app(before=None):
    from celery import Celery
    Celery("made in a step").set_current()

@step
def dies(before=None):
    from celery import Celery, _state
    Celery("left behind")
    _state._task_stack.push("left behind")
    raise RuntimeError("on purpose")

@step(trigger="all_done")
def seen_after(before):
    return imports_nothing.function()

@step
def sends(how, before=None):
    import celery.result, proj{mark}
    from celery import chain, chord, group, signature
    shared, bound, app = proj{mark}.shared, proj{mark}.bound, celery.current_app
    celery.current_app.conf.timezone
    return str(eval(how))

@pipeline
def looking():
    first = imports_nothing.options(name="first")()
    second = imports_nothing.options(name="second")(imports_a_project(first))
    third = imports_nothing.options(name="third")(makes_an_app(second))
    seen_after.options(name="last")(dies(third))

@pipeline
def sending(how: str = ""):
    sends(how)
"""

SILENT = [
    "shared.delay(4)",
    "shared.apply_async(args=[4])",
    "shared.s(4).apply_async()",
    "chain(shared.s(1), shared.s())()",
    "group(shared.s(1), shared.s(2))()",
    "chord([shared.s(1)], shared.s())()",
    "signature('proj.shared', (4,)).apply_async()",
    "app.send_task('proj.shared')",
    "celery.current_app.send_task('anything')",
    "celery.Signature('anything').delay()",
    "celery.result.AsyncResult('1').state",
    "app.control.ping()",
    "app.connection().connect()",
]


@pytest.fixture(scope="module")
def sites(
    settings: Settings, shared_redis_url: str, runs_by: Callable[[Settings], Runs]
) -> Iterator[dict[str, Runs]]:
    """Return runs on a worker of one child, without and with an app of its pool."""
    with_app = settings.model_copy(
        update={"pools": {"cpu": PoolSettings(celery_app="proj_named:app")}}
    )
    with (
        local_worker(settings, shared_redis_url, 1, ["cpu"], ready_within_s=30) as without,
        local_worker(with_app, shared_redis_url, 1, ["cpu"], ready_within_s=30) as with_one,
    ):
        yield {"without": runs_by(without.settings), "with": runs_by(with_one.settings)}
        without.kill()
        with_one.kill()


@pytest.fixture
def project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared_redis_url: str
) -> tuple[Callable[..., Pipeline], str]:
    """Return the pipelines of a project with a Celery app of its own, by name, and the queue of
    that app."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    queue = f"queue-of-{tmp_path.name}"
    (tmp_path / "proj_named.py").write_text(
        PROJECT.format(mark="_named", url=celery_broker_url(shared_redis_url), queue=queue)
    )
    path = tmp_path / f"steps_{tmp_path.name}.py"
    path.write_text(STEPS.format(mark="_named"))
    return lambda name, **params: load(f"{path}:{name}").build(params), queue


@pytest.mark.parametrize(("site", "main"), [("without", "no_app"), ("with", "proj_named")])
def test_the_current_app_is_the_same_whatever_ran_before(
    sites: dict[str, Runs], project: tuple[Callable[..., Pipeline], str], site: str, main: str
) -> None:
    build, _ = project
    runs = sites[site]
    record = runs.run(build("looking"))

    seen = [runs.value(record, name) for name in ("first", "second", "third", "last")]
    assert [each[1:] for each in seen] == [[main, main, False]] * 4
    assert len({each[0] for each in seen}) == 1  # one process


@pytest.mark.parametrize("how", SILENT)
def test_without_an_app_nothing_is_sent_and_the_error_says_how_to_name_one(
    sites: dict[str, Runs], project: tuple[Callable[..., Pipeline], str], how: str
) -> None:
    build, queue = project
    record = sites["without"].run(build("sending", how=how))

    (attempt,) = record.steps["sends"].attempts
    assert attempt.error.type.endswith("NoCeleryApp"), attempt.error
    assert 'celery_app = "proj.celery:app"' in attempt.error.message
    assert "'cpu'" in attempt.error.message
    client = sites["without"].ledger.client
    assert client.llen(queue) == 0 == client.llen("celery")


@pytest.mark.parametrize("how", SILENT[:8])
def test_with_an_app_it_goes_to_the_queue_of_that_app(
    sites: dict[str, Runs], project: tuple[Callable[..., Pipeline], str], how: Any
) -> None:
    build, queue = project
    record = sites["with"].run(build("sending", how=how))

    assert record.state == "succeeded", record.steps["sends"].attempts[-1].error
    assert sites["with"].ledger.client.llen(queue) > 0


@pytest.mark.parametrize("how", ["bound.delay(4)", "bound.s(4).apply_async()"])
@pytest.mark.parametrize("site", ["without", "with"])
def test_a_task_of_an_app_of_the_users_own_goes_there(
    sites: dict[str, Runs], project: tuple[Callable[..., Pipeline], str], site: str, how: str
) -> None:
    build, queue = project
    record = sites[site].run(build("sending", how=how))

    assert record.state == "succeeded"
    (message,) = sites[site].ledger.client.lrange(queue, 0, -1)
    assert '"parent_id": null' in message  # the step is not a task of theirs


@pytest.mark.parametrize(
    "how",
    ["shared(4)", "bound(4)", "shared.s(4)()", "app.conf.broker_url", "shared.apply((4,)).get()"],
)
def test_what_sends_nothing_works_without_an_app(
    sites: dict[str, Runs], project: tuple[Callable[..., Pipeline], str], how: str
) -> None:
    build, _ = project
    record = sites["without"].run(build("sending", how=how))

    assert record.state == "succeeded", record.steps["sends"].attempts[-1].error


def test_a_shared_task_is_that_of_the_file_as_it_is_now(
    sites: dict[str, Runs], project: tuple[Callable[..., Pipeline], str], tmp_path: Path
) -> None:
    build, _ = project
    runs = sites["without"]
    values = []
    for mark in ("old", "new"):
        path = tmp_path / "proj_named.py"
        path.write_text(
            path.read_text()
            .replace('return ("_named"', f'return ("{mark}"')
            .replace('("old"', f'("{mark}"')
        )
        record = runs.run(build("sending", how="shared(4)"))
        values.append(runs.value(record, "sends"))

    assert values == ["('old', 4)", "('new', 4)"]


def test_an_app_that_cannot_be_had_is_told_in_one_sentence(
    settings: Settings,
    shared_redis_url: str,
    runs_by: Callable[[Settings], Runs],
    project: tuple[Callable[..., Pipeline], str],
) -> None:
    build, _ = project
    for name, told in {
        "proj_missing:app": "fails: No module named 'proj_missing'",
        "proj_named:nothing": "there is no 'nothing' in it",
        "proj_named:shared_task": "no Celery app",
    }.items():
        chosen = settings.model_copy(update={"pools": {"cpu": PoolSettings(celery_app=name)}})
        with local_worker(chosen, shared_redis_url, 1, ["cpu"], ready_within_s=30) as worker:
            runs = runs_by(worker.settings)
            record = runs.run(build("sending", how="1"))
            worker.kill()

        message = record.steps["sends"].attempts[-1].error.message
        assert "setting celery_app of pool 'cpu'" in message
        assert told in message
