"""The Celery app that user code finds as the current one inside a step: that of its pool, or one
that sends nothing.

Celery keeps the current app per thread and the default app per process (`celery._state`), and
whatever `Celery(...)` is made last becomes the current one. So `shared_task(...).delay()` would go
to our broker, where nobody knows the task, or to the project that an earlier step of the same child
had imported.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Iterable
from typing import Any

from celery import Celery, _state
from celery.backends.base import DisabledBackend

from orchestrator.errors import CeleryAppNotFound, NoCeleryApp
from orchestrator.settings.model import Settings
from orchestrator.worker.child.process_state import adopt_imports


class _NoResults(DisabledBackend):  # type: ignore[misc]
    """Has no results, and says of which app that is."""

    def _is_disabled(self, *args: Any, **kwargs: Any) -> Any:
        raise self.app.fault("asks for the result of a Celery task")

    def ensure_chords_allowed(self) -> None:
        raise self.app.fault("sends a Celery chord")

    get_state = get_status = get_result = get_traceback = get_task_meta_for = wait_for = (
        get_many
    ) = _is_disabled
    _get_task_meta_for = _is_disabled


class _SilentApp(Celery):  # type: ignore[misc]
    """An app that can be read and configured, and whose every way to the broker raises
    NoCeleryApp."""

    def __init__(self, pool: str) -> None:
        super().__init__("no_app", set_as_current=False, fixups=[], broker="memory://")
        self._pool_name = pool

    def send_task(self, name: str, *args: Any, **kwargs: Any) -> Any:
        raise self.fault(f"sends the Celery task {name!r}")

    def _connection(self, *args: Any, **kwargs: Any) -> Any:
        raise self.fault("asks for Celery's broker")

    def _get_backend(self) -> DisabledBackend:
        return _NoResults(app=self)

    def fault(self, what: str) -> NoCeleryApp:
        name = self._pool_name
        return NoCeleryApp(
            f"this step {what}, but pool {name!r} names no Celery app of yours for that: set it in"
            " the "
            f'settings, as in `celery_app = "proj.celery:app"` below [pools.{name}]'
        )


class _CurrentApp(threading.local):
    """Stands in for `celery._state._tls`: during a step an app that is being made does not become
    the current one, else it would depend on the imports of earlier steps what is.
    `app.set_current()` works as ever.
    """

    held: Any = None
    is_step_running = False

    @property
    def current_app(self) -> Any:
        return self.held

    @current_app.setter
    def current_app(self, app: Any) -> None:
        # An app that is being made is registered after it has made itself the current one.
        if not self.is_step_running or app is None or app in _state._get_active_apps():
            self.held = app


_current: _CurrentApp | None = None
_silent_apps: dict[str, _SilentApp] = {}


def _install() -> _CurrentApp:
    global _current
    if _current is None:
        # in every thread that runs no step
        _CurrentApp.held = _state._tls.current_app or _state.default_app
        _current = _CurrentApp()
        _state._tls = _current
    return _current


class user_celery_app:  # noqa: N801 (used as a function; generators cost three times as much, and this is in every step's way)
    """Let `celery.current_app` and the default app be what the pool says inside the block, and no
    task be running.

    The step is not a task of the user's app: what it sends has no parent, and it may wait for
    results.
    """

    __slots__ = ("_before", "_name", "_pool", "_stack")

    def __init__(self, settings: Settings, pool: str | None) -> None:
        self._pool = pool or settings.default_pool
        known = settings.pools.get(self._pool)
        self._name = known.celery_app if known else None

    def __enter__(self) -> None:
        current = _install()
        self._before = current.held, _state.default_app, _state.task_join_will_block()
        self._stack = [*_state._task_stack.stack]
        _state._task_stack.stack.clear()
        _state._set_task_join_will_block(False)
        try:
            app = _silent_app(self._pool)
            self._turn_to(current, app)
            if self._name:  # its modules may use the current app while they are imported
                self._turn_to(current, _named_app(self._name, self._pool))
        except BaseException:
            self.__exit__()
            raise

    @staticmethod
    def _turn_to(current: _CurrentApp, app: Any) -> None:
        current.held, current.is_step_running = app, True
        _state.set_default_app(app)

    def __exit__(self, *raised: object) -> None:
        current = _install()
        current.is_step_running = False
        current.held, default, is_blocking = self._before
        if threading.current_thread() is threading.main_thread():
            # else other steps of the pool are using it
            _state.set_default_app(default)
        _state._set_task_join_will_block(is_blocking)
        _state._task_stack.stack.clear()
        for task in self._stack:  # not into the list itself, which may be another one by now
            _state._task_stack.push(task)


def _silent_app(pool: str) -> _SilentApp:
    app = _silent_apps.get(pool)
    if app is None or app.configured or app.finalized:  # used by a step before
        if app is not None:
            app.close()
        app = _silent_apps[pool] = _SilentApp(pool)
    return app


def _named_app(name: str, pool: str) -> Any:
    module, _, attributes = name.partition(":")
    text = f"setting celery_app of pool {pool!r} names {name!r}"
    found: Any = sys.modules.get(module)
    if found is None:
        try:
            found = importlib.import_module(module)
        except ImportError as error:
            raise CeleryAppNotFound(f"{text}, and importing {module!r} fails: {error}") from error
        adopt_imports()
    for attribute in attributes.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            raise CeleryAppNotFound(f"{text}, and there is no {attribute!r} in it") from None
    if not isinstance(found, Celery):
        raise CeleryAppNotFound(f"{text}, which is a {type(found).__name__} and no Celery app")
    return found


def forget_shared_tasks(modules: Iterable[str]) -> None:
    """Drop what `shared_task` has kept of modules that are imported anew: else an app might get the
    old function."""
    gone = set(modules)
    for register in list(_state._on_app_finalizers):
        cells = [cell.cell_contents for cell in register.__closure__ or ()]
        if any(
            callable(content) and getattr(content, "__module__", None) in gone for content in cells
        ):
            _state._on_app_finalizers.discard(register)
